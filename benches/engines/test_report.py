"""python3 -m unittest discover -s benches/engines"""

import unittest

import report

POINTS = [
    {"name": "decode-4", "streams": 4, "input": 32, "output": 5},
    {"name": "prefill-512", "streams": 1, "input": 512, "output": 1},
]


def engine(engine, check, *rounds):
    runs = [{"load_average": 0, "points": points, "faults": {}, "check": check, "peak_rss_bytes": 2**30} for points in rounds]
    return {"engine": engine, "name": engine, "precision": "16 bit", "command": [engine], "runs": runs}


def decode(rate, tpot=10, e2el=50):
    return {"output_throughput": rate, "mean_tpot_ms": tpot, "median_e2el_ms": e2el}


class Report(unittest.TestCase):
    def setUp(self):
        prefill = {"median_e2el_ms": 1000, "mean_tpot_ms": 0}
        own = engine("sconce", [[1, 2, 3]], {"decode-4": decode(30)}, {"decode-4": decode(60)}, {"decode-4": decode(50), "prefill-512": prefill})
        peer = engine("peer", ["a\u00e9c"], {"decode-4": decode(20, tpot=0.01)})
        failed = engine("failed", None)
        self.model = {"points": POINTS, "engines": [own, peer, failed], "spelt": {1: b" a", 2: "\u00e9".encode(), 3: b"b"}}
        report.summarise(self.model)

    def test_medians_are_of_the_rounds_that_have_the_point(self):
        own, peer, failed = self.model["engines"]
        self.assertEqual(own["rates"], {"decode-4": 50, "prefill-512": 512})
        self.assertEqual(own["by_tpot"], {"decode-4": 400})
        self.assertEqual(peer["by_tpot"], {}, "all tokens came at once")
        self.assertEqual(failed["rates"], {})

    def test_answers_are_compared_by_ids_and_by_text(self):
        self.assertEqual([engine["equal_tokens"] for engine in self.model["engines"]], [3, 2, None])
        self.assertEqual(report.equal_tokens([1, 2, 3], [1, 9, 3], {}), 1)

    def test_a_table_has_the_ratio_and_every_engine(self):
        lines = report.table(self.model, "16 bit")
        self.assertIn("| tokens/s | sconce | peer | failed | Sconce to the best peer |", lines)
        self.assertIn("| decode-4 | 50.0 | 20.0 | - | 2.50 |", lines)
        self.assertIn("| prefill-512 | 512.0 | - | - | - |", lines)
        self.assertEqual(report.table(self.model, "8 bit"), [])


if __name__ == "__main__":
    unittest.main()
