"""Questions to dnsmasq, twice each, over UDP and TCP: the code, and the records in order of their text."""

import re
import sys
import time

import dns.message
import dns.query

PORT = int(sys.argv[1])
NAMES = """consul SOA
consul NS
consul A
n1.node.consul A
n1.node.dc1.consul A
n1.node.consul ANY
n1.node.consul AAAA
six.node.consul AAAA
six.node.consul TXT
six.node.consul A
none.node.consul A
web.service.consul A
web.service.consul SRV
web.service.consul CNAME
WEB.Service.Consul SRV
web.service.consul TXT
web.service.dc1.consul SRV
web.service.dc2.consul SRV
blue.web.service.consul SRV
red.web.service.consul SRV
_web._tcp.service.consul SRV
_web._blue.service.consul A
db.service.consul AAAA
db.service.consul SRV
many.service.consul A
many.service.consul SRV
none.service.consul A
q.query.consul A
q.query.consul SRV
none.query.consul A
0a000001.addr.consul A
0a000001.addr.dc1.consul SRV
1.0.0.10.in-addr.arpa PTR
9.9.9.10.in-addr.arpa PTR
web.connect.consul A
web.virtual.consul A
nonsense.consul A
a.b.c.nonsense.consul SRV
"""


def ask(how, name, kind):
    """What dnsmasq answers; the order of records is random, and Consul chooses those that fit."""
    for _ in range(50):
        try:
            answer = how(dns.message.make_query(name, kind), "127.0.0.1", port=PORT, timeout=20)
            break
        except (ConnectionError, OSError):
            time.sleep(0.2)
    else:
        return "no answer"
    flags = [flag for flag, bit in (("aa", 0x400), ("tc", 0x200), ("ra", 0x80)) if answer.flags & bit]
    sets = [records for part in (answer.answer, answer.additional) for records in part]
    records = sorted(line for records in sets for line in str(records).split("\n"))
    # The serial number of the zone is the time.
    records = [re.sub(r"\b1\d{9}\b", "NOW", line) for line in records]
    # A cache counts the time to live down.
    records = [re.sub(r"^(\S+) [1-9]\d* ", r"\1 TTL ", line) for line in records]
    if name.startswith("many"):
        # Which of them are in a short answer is random.
        records = [str(len(answer.answer[0])) if answer.answer else "0"]
    return " ".join([answer.rcode().to_text(answer.rcode()), *flags, *records])


for line in NAMES.splitlines():
    for way, how in (("UDP", dns.query.udp), ("TCP", dns.query.tcp)):
        for time_of_it in ("first", "again"):
            seen = ask(how, *line.split())
            print(f"{line} by {way}, {time_of_it}\t{seen}", flush=True)
