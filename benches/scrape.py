"""What a scrape of /metrics costs the server in processor time: python benches/scrape.py PORT PID

Start `sconce serve`, ask it something, and give its port and process id. The server should be idle
meanwhile: the time is the whole process's. Under load a scrape does the same, it waits for nobody.
"""

import http.client
import os
import pathlib
import statistics
import sys
import time

SCRAPES = 1000
port, pid = map(int, sys.argv[1:])


def processor_seconds():
    fields = pathlib.Path(f"/proc/{pid}/stat").read_text().rsplit(") ", 1)[1].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


connection = http.client.HTTPConnection("127.0.0.1", port)


def scrape():
    connection.request("GET", "/metrics")
    return connection.getresponse().read()


page = scrape()
before, latencies = processor_seconds(), []
for _ in range(SCRAPES):
    begun = time.perf_counter()
    scrape()
    latencies.append(time.perf_counter() - begun)
each = (processor_seconds() - before) / SCRAPES
print(f"{len(page)} bytes, {len(page.splitlines())} lines")
print(f"{each * 1e3:.2f} ms of processor time a scrape, {statistics.median(latencies) * 1e3:.2f} ms to wait")
