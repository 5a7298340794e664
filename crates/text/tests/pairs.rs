//! Two texts in one prompt, cut to fit.

#![expect(clippy::unwrap_used, reason = "a test fails by panicking")]

use text::{Cut, Side, SpecialTokens, Tokenizer};

const CLS: u32 = 2;
const SEP: u32 = 3;

fn tokenizer() -> Tokenizer {
    let path = concat!(
        env!("CARGO_MANIFEST_DIR"),
        "/../../models/golden_pooling/bert_score/tokenizer.json"
    );
    Tokenizer::from_bytes(&std::fs::read(path).unwrap(), SpecialTokens::default()).unwrap()
}

/// The lengths that transformers cuts to: the longer one loses tokens until both are as long, then
/// both do, and an odd token is the longer one's, or the second's.
fn lengths(first: usize, second: usize, most: usize) -> (usize, usize) {
    if first + second <= most {
        return (first, second);
    }
    let short = first.min(second);
    let (short, long) =
        if 2 * short <= most { (short, most - short) } else { (most / 2, most - most / 2) };
    if first > second { (long, short) } else { (short, long) }
}

#[test]
fn the_longer_text_is_cut_first() {
    let tokenizer = tokenizer();
    let text = |len: usize| "a!b?c.d,".chars().cycle().take(len).collect::<String>();
    for (first, second) in [(1, 1), (2, 9), (9, 2), (7, 7), (8, 7), (7, 8), (30, 40), (40, 30)] {
        let (first, second) = (text(first), text(second));
        let parts = [&first, &second].map(|text| tokenizer.part(text).unwrap());
        let ids = [&first, &second].map(|text| tokenizer.encode(text, false).unwrap());
        for max_len in 3..30 {
            for side in [Side::Left, Side::Right] {
                let cut = Some(Cut { max_len, side });
                let (joined, begin) = tokenizer.join(&parts[0], &parts[1], cut).unwrap();
                let (a, b) = lengths(ids[0].len(), ids[1].len(), max_len - 3);
                let kept = |ids: &[u32], len: usize| match side {
                    Side::Left => ids[ids.len() - len..].to_vec(),
                    Side::Right => ids[..len].to_vec(),
                };
                let expected =
                    [&[CLS][..], &kept(&ids[0], a), &[SEP], &kept(&ids[1], b), &[SEP]].concat();
                assert_eq!(joined, expected, "{first} and {second} to {max_len}, {side:?}");
                assert_eq!(begin, Some(a + 2));
            }
        }
        let (joined, _) = tokenizer.join(&parts[0], &parts[1], None).unwrap();
        assert_eq!(joined.len(), ids[0].len() + ids[1].len() + 3);
    }
}

/// `tokenizers` keeps what it cuts off in pieces, and of a pair it makes all combinations of them.
#[test]
#[cfg(target_os = "linux")]
fn what_is_cut_off_takes_no_memory() {
    let peak = || {
        let status = std::fs::read_to_string("/proc/self/status").unwrap();
        let line = status.lines().find_map(|line| line.strip_prefix("VmHWM:")).unwrap();
        line.trim().trim_end_matches(" kB").parse::<usize>().unwrap() << 10
    };
    let tokenizer = tokenizer();
    let text = "a!b?c.d,".repeat(200);
    let before = peak();
    let part = tokenizer.part(&text).unwrap();
    let cut = Cut { max_len: 8, side: Side::Right };
    assert_eq!(tokenizer.join(&part, &part, Some(cut)).unwrap().0.len(), 8);
    assert_eq!(tokenizer.encode_cut(&text.repeat(50), true, cut).unwrap().len(), 8);
    let taken = peak() - before;
    assert!(taken < 64 << 20, "{taken} bytes");
}
