"""Writes believable events as CloudEvents, one JSON object a line, at the rate
given as the argument: incidents on a small fictitious network that are
detected, investigated and answered, a mesh of nodes that come, go and agree,
and the figures of both."""

import itertools
import json
import random
import signal
import sys
import time

HOSTS = [f"i-{number:017x}" for number in random.Random(7).sample(range(16**10), 24)]
NETWORKS = ["vpc-0a1b2c3d", "vpc-4e5f6071"]
NODES = [f"node_{number:03}" for number in range(1, 25)]

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
# What an investigation does, how far it is then, and what it has found.
STEPS = [
    (10, "COLLECTING_EVIDENCE", "Pulling flow logs of the last hour", None),
    (35, "COLLECTING_EVIDENCE", "Reading the audit trail of {host}", "Unusual API calls from {host}"),
    (60, "ANALYZING_EVIDENCE", "Correlating with known indicators", "Source seen in two earlier incidents"),
    (85, "ANALYZING_EVIDENCE", "Checking {host} for persistence", "No persistence found on {host}"),
    (100, "COMPLETED", "Writing the report", "Contained, one host affected"),
]
TOOLS = ["query_flow_logs", "query_audit_trail", "check_indicators", "check_persistence"]


def event(kind, data):
    return {"type": kind, "data": data}


def instant(ahead=0):
    return time.strftime("%Y-%m-%dT%H:%M:%SZ", time.gmtime(time.time() + ahead))


def incident(number):
    """One incident: its alerts, its investigation and the response to it."""
    threat = random.choice(list(STORIES))
    host, network = random.choice(HOSTS), random.choice(NETWORKS)
    inside = threat in ("port_scanning", "lateral_movement")
    source = f"10.0.{random.randint(0, 3)}.{random.randint(2, 250)}" if inside else f"203.0.113.{random.randint(2, 250)}"
    name = f"{number:03}-{time.strftime('%Y%m%d', time.gmtime())}"
    resources = [host, network]
    for severity, confidence, summary in STORIES[threat]:
        yield event("threat.threat_alert", {
            "incident_id": f"threat-{name}",
            "threat_type": threat,
            "severity": severity,
            "confidence": min(99, confidence + random.randint(-3, 3)),
            "source_ip": source,
            "affected_resources": resources,
            "ai_summary": summary.format(
                source=source, host=host, network=network, hosts=random.randint(3, 40), count=random.randint(20, 900)
            ),
            "recommended_actions": ACTIONS[threat],
            "auto_response_available": severity in ("HIGH", "CRITICAL"),
        })
        resources = resources + random.sample(HOSTS, 1)
    action = {
        "action_id": f"action-{name}",
        "incident_id": f"threat-{name}",
        "action_type": ACTIONS[threat][0],
        "target_resource": host,
    }
    yield event("threat.action_update", action | {"status": "PENDING", "progress": 0, "execution_log": []})
    findings = []
    for done, (progress, status, activity, finding) in enumerate(STEPS):
        if finding:
            findings = findings + [finding.format(host=host)]
        yield event("threat.investigation_update", {
            "investigation_id": f"inv-{name}",
            "progress": progress,
            "status": status,
            "current_activity": activity.format(host=host),
            "evidence_collected": 3 * done + random.randint(1, 3),
            "tools_executed": TOOLS[: done + 1],
            "estimated_completion": instant(60 * (len(STEPS) - done)),
            "findings_preview": findings,
        })
    log = []
    for progress, status, line in [
        (30, "EXECUTING", "Backup of the rules taken"),
        (75, "EXECUTING", "Rules applied"),
        (100, "COMPLETED", "Verified from outside"),
    ]:
        log = log + [line]
        yield event("threat.action_update", action | {
            "status": status, "progress": progress, "execution_log": log, "estimated_completion": instant(30),
        })


def proposal(number):
    """One decision of the mesh, from the proposal to its execution."""
    name = f"proposal_{number:03}"
    decision = {
        "action": "update_parameter",
        "parameter": random.choice(["learning_rate", "batch_size", "gossip_fanout"]),
        "value": random.choice([0.01, 0.005, 32, 64, 4]),
    }
    yield event("consensus.proposal_submitted", {"proposal_id": name, "proposer": random.choice(NODES), "decision": decision})
    for phase in ["pre_prepare", "prepare", "commit"]:
        yield event("consensus.consensus_phase", {"proposal_id": name, "phase": phase, "votes": random.randint(15, len(NODES))})
        if random.random() < 0.1:
            yield event("consensus.view_change", {"view": number, "leader": random.choice(NODES), "reason": "leader_timeout"})
    yield event("network.consensus_reached", {"proposal_id": name, "participants": len(NODES)})
    yield event("consensus.decision_executed", {"proposal_id": name, "decision": decision, "executed_at": instant()})


def visit(_):
    """A node that joins the mesh, is measured and leaves again."""
    node = random.choice(NODES)
    yield event("network.node_joined", {"node_id": node, "address": f"{node.replace('_', '')}.onion", "timestamp": instant()})
    for _ in range(random.randint(2, 5)):
        metric, unit = random.choice([("cpu_usage", 100), ("memory_usage", 100), ("peer_latency_ms", 400)])
        value, threshold = round(random.uniform(0.3, 1) * unit, 1), 0.8 * unit
        high = value > threshold
        yield event("monitoring.metric_update", {
            "node_id": node, "metric": metric, "value": value, "threshold": threshold, "status": "warning" if high else "ok",
        })
        if high:
            kind = {"cpu_usage": "alert_raised", "memory_usage": "resource_exhausted"}.get(metric, "performance_degradation")
            yield event(f"monitoring.{kind}", {"node_id": node, "metric": metric, "value": value})
    yield event("network.node_left", {"node_id": node, "reason": random.choice(["maintenance", "timeout"])})


def trouble(number):
    """Something that the mesh defends itself against."""
    source, node = f"198.51.100.{random.randint(2, 250)}", random.choice(NODES)
    attack = random.choice(["ddos", "sybil", "eclipse"])
    yield event("security.suspicious_activity", {"source_ip": source, "node_id": node, "score": random.randint(60, 90)})
    yield event("security.intrusion_detected", {
        "attack_type": attack, "source_ip": source, "blocked": True, "severity": random.choice(["medium", "high"]),
    })
    yield event("security.attack_blocked", {"attack_type": attack, "source_ip": source, "node_id": node})
    if number % 3 == 0:
        yield event("security.certificate_expired", {"node_id": node, "expired_at": instant(-60)})
    if attack == "eclipse":
        yield event("network.network_partition", {"nodes": random.sample(NODES, 4), "detected_at": instant()})


def figures(_):
    """How the detection itself is doing."""
    yield event("threat.metrics_update", {
        "threat_count": {"active": random.randint(3, 15), "last_hour": random.randint(5, 30), "last_24h": random.randint(60, 200)},
        "processing_rate": {
            "anomalies_per_hour": random.randint(900, 1500),
            "avg_detection_time": f"{random.uniform(1.5, 3):.1f}s",
            "queue_depth": random.randint(0, 20),
        },
        "cost_tracking": {"today": f"${random.uniform(0.2, 0.6):.2f}", "projected_daily": "$0.68", "budget_status": "UNDER_BUDGET"},
    })


def events():
    """Several stories at a time, each in its own order."""
    numbers = itertools.count(1)
    running = []
    while True:
        while len(running) < 5:
            kind = random.choices([incident, proposal, visit, trouble, figures], [4, 2, 3, 2, 3])[0]
            running.append(kind(next(numbers)))
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
    for one in events():
        print(json.dumps(one))
        due += 1 / rate
        time.sleep(max(0, due - time.monotonic()))


if __name__ == "__main__":
    main()
