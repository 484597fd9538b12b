"""Writes threat alerts as JSON lines: incidents that begin, escalate and come
back, on a small fictitious network, at the rate given as the argument."""

import itertools
import json
import random
import signal
import sys
import time

HOSTS = [f"i-{number:017x}" for number in random.Random(7).sample(range(16**10), 24)]
NETWORKS = ["vpc-0a1b2c3d", "vpc-4e5f6071"]

# What each kind of threat looks like as it unfolds: severity, confidence and
# what an analyst would read.
STORIES = {
    "port_scanning": [
        ("LOW", 62, "{source} probed {count} ports of {host} within a minute"),
        ("MEDIUM", 78, "{source} went on to scan {hosts} hosts in {network}"),
        ("HIGH", 93, "Systematic scan from {source}: {hosts} hosts, service versions enumerated"),
    ],
    "brute_force": [
        ("MEDIUM", 71, "{count} failed SSH logins on {host} from {source}"),
        ("HIGH", 88, "Login on {host} succeeded after {count} failures from {source}"),
        ("CRITICAL", 96, "New privileged session on {host} minutes after the brute-force success"),
    ],
    "crypto_mining": [
        ("MEDIUM", 69, "{host} keeps all cores busy and talks to a mining pool"),
        ("HIGH", 90, "Stratum handshake from {host}, binary unpacked in /tmp"),
    ],
    "data_exfiltration": [
        ("HIGH", 84, "{host} sent {count} MB to {source}, forty times its usual volume"),
        ("CRITICAL", 95, "Archive of a customer database left {host} for {source}"),
    ],
    "lateral_movement": [
        ("HIGH", 82, "Service account from {host} used on {hosts} other hosts"),
        ("CRITICAL", 94, "Remote execution from {host} across {network}"),
    ],
}
ACTIONS = {
    "port_scanning": ["block_ip", "investigate_compromise"],
    "brute_force": ["block_ip", "rotate_credentials"],
    "crypto_mining": ["isolate_instance", "terminate_process"],
    "data_exfiltration": ["isolate_instance", "block_ip", "preserve_evidence"],
    "lateral_movement": ["isolate_instance", "disable_account"],
}


def incident(number):
    """The alerts of one incident, in order."""
    threat = random.choice(list(STORIES))
    host, network = random.choice(HOSTS), random.choice(NETWORKS)
    inside = threat in ("port_scanning", "lateral_movement")
    source = f"10.0.{random.randint(0, 3)}.{random.randint(2, 250)}" if inside else f"203.0.113.{random.randint(2, 250)}"
    resources = [host, network]
    for severity, confidence, summary in STORIES[threat]:
        hosts = random.randint(3, 40)
        yield {
            "incident_id": f"threat-{number:03}-{time.strftime('%Y%m%d', time.gmtime())}",
            "threat_type": threat,
            "severity": severity,
            "confidence": min(99, confidence + random.randint(-3, 3)),
            "source_ip": source,
            "affected_resources": resources,
            "ai_summary": summary.format(
                source=source, host=host, network=network, hosts=hosts, count=random.randint(20, 900)
            ),
            "recommended_actions": ACTIONS[threat],
            "auto_response_available": severity in ("HIGH", "CRITICAL"),
        }
        resources = resources + random.sample(HOSTS, 1)


def alerts():
    """Alerts of several incidents at a time, each in its own order."""
    numbers = itertools.count(1)
    running = []
    while True:
        while len(running) < 3:
            running.append(incident(next(numbers)))
        story = random.choice(running)
        try:
            yield next(story)
        except StopIteration:
            running.remove(story)


def main():
    signal.signal(signal.SIGPIPE, signal.SIG_DFL)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    rate = float(sys.argv[1])
    due = time.monotonic()
    for alert in alerts():
        print(json.dumps(alert))
        due += 1 / rate
        time.sleep(max(0, due - time.monotonic()))


if __name__ == "__main__":
    main()
