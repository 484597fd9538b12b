"""Writes believable events as CloudEvents, one JSON object a line, at the rate
given as the argument: incidents on a small fictitious network that are
detected, investigated and answered, a mesh of nodes that come, go and agree,
the figures of both, a build system that builds, scans and debugs, and a
workspace where people, agents and models work on projects."""

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
SERVICES = ["checkout", "catalog", "search", "invoices", "notifications"]
STAGES = ["build", "test", "scan", "deploy"]
FINDINGS = [
    ("Outdated TLS library", "high"), ("SQL built from input", "critical"), ("Secret in an image layer", "high"),
    ("Container runs as root", "medium"), ("Weak hash for passwords", "medium"),
]
FAULTS = [
    ("connection refused", "network", "Wait for the database before the tests"),
    ("assertion failed: 3 != 4", "logic", "Count the deleted row, too"),
    ("out of memory", "resources", "Give the linker four gigabytes"),
]
PROJECTS = {f"p-{name}": name for name in ["harbour", "lantern", "orchard"]}
USERS = ["u-ada", "u-ben", "u-chi", "u-dora"]
AGENTS = {f"ag-{number}": name for number, name in enumerate(["Reviewer", "Tester", "Writer", "Analyst"], 1)}
WORK = ["Check out", "Build", "Run the tests", "Write the summary"]
TITLES = [
    "Retry when the registry is busy", "Say which file is too large", "Drop the old login page",
    "Cache the list of projects", "Show times in the reader's zone",
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


def build(number):
    """One run of a pipeline, with what its scan finds and what is done about a failure."""
    service, user = random.choice(SERVICES), random.choice(USERS)
    pipeline, run = f"pipe-{service}", f"run-{number:04}"
    definition = {"name": service, "branch": "main", "stages": STAGES}
    kind = random.choice(["pipeline_created", "pipeline_updated"])
    yield event(f"pipeline.{kind}", {"pipelineId": pipeline, "pipeline": definition})
    yield event("pipeline.user_action", {"userId": user, "action": {"name": "start", "pipelineId": pipeline}})
    about = {"executionId": run, "pipelineId": pipeline}
    commit = f"{random.getrandbits(28):07x}"
    yield event("pipeline.pipeline_execution_started", about | {"execution": {"status": "running", "commit": commit, "startedBy": user}})
    failed = random.choice([None, None, "test"])
    for done, stage in enumerate(STAGES):
        progress = 100 * done // len(STAGES)
        yield event("pipeline.pipeline_execution_updated", about | {"execution": {"status": "running", "stage": stage, "progress": progress}})
        if stage == failed:
            yield from debugging(number, run)
            break
        if stage == "scan":
            yield from scan(number, service)
    status = "failed" if failed else "success"
    yield event("pipeline.pipeline_execution_completed", about | {"execution": {"status": status, "seconds": random.randint(60, 400)}})
    yield event("pipeline.user_notification", {"userId": user, "notification": {"title": f"{service}: {status}", "executionId": run}})
    if number % 7 == 0:
        yield event("pipeline.pipeline_deleted", {"pipelineId": f"pipe-{service}-old"})


def scan(number, service):
    """What a scan goes through, and what it finds."""
    name = f"scan-{number:04}"
    yield event("pipeline.security_scan_started", {"scanId": name, "scan": {"target": service, "kind": "dependencies"}})
    yield event("pipeline.security_scan_updated", {"scanId": name, "scan": {"target": service, "progress": 50}})
    found = random.sample(FINDINGS, random.choice([0, 1, 1, 2]))
    for place, (title, severity) in enumerate(found):
        weakness = {"title": title, "severity": severity, "component": service}
        vulnerability = {"vulnerabilityId": f"vuln-{number:04}-{place}"}
        yield event("pipeline.security_vulnerability_detected", vulnerability | {"vulnerability": weakness | {"state": "open"}})
        yield event("pipeline.security_vulnerability_updated", vulnerability | {"vulnerability": weakness | {"state": "assigned"}})
    yield event("pipeline.security_scan_completed", {"scanId": name, "scan": {"target": service, "findings": len(found)}})


def debugging(number, run):
    """How a failure is understood and mended."""
    message, kind, summary = random.choice(FAULTS)
    session, error, patch = f"dbg-{number:04}", f"err-{number:04}", f"patch-{number:04}"
    yield event("pipeline.debug_session_created", {"sessionId": session, "session": {"executionId": run, "state": "open"}})
    yield event("pipeline.debug_error_detected", {"sessionId": session, "errorId": error, "error": {"message": message, "stage": "test"}})
    classes = {kind: round(random.uniform(0.7, 0.97), 2), "other": round(random.uniform(0.01, 0.2), 2)}
    yield event("pipeline.debug_ml_classification", {"sessionId": session, "errorId": error, "classifications": classes})
    yield event("pipeline.debug_patch_generated", {"sessionId": session, "patchId": patch, "patch": {"summary": summary, "lines": random.randint(1, 12)}})
    passed = random.random() < 0.7
    yield event("pipeline.debug_patch_applied", {"sessionId": session, "patchId": patch, "result": {"passed": passed}})
    if not passed:
        yield event("pipeline.debug_patch_rollback", {"sessionId": session, "patchId": patch, "result": {"reason": "tests still fail"}})
    yield event("pipeline.debug_session_updated", {"sessionId": session, "session": {"executionId": run, "state": "closed"}})


def upkeep(number):
    """How the build system itself is doing."""
    busy = random.random() < 0.3
    yield event("pipeline.system_metrics_update", {"metrics": {
        "queued": random.randint(0, 30), "running": random.randint(1, 12), "cpuPercent": round(random.uniform(20, 99), 1),
    }})
    yield event("pipeline.system_status_update", {"status": {"runners": "degraded" if busy else "ok", "registry": "ok"}})
    if busy:
        yield event("pipeline.system_alert", {"alertId": f"alert-{number:04}", "alert": {"title": "Runner disk almost full", "runner": "runner-2"}})
    if number % 5 == 0:
        service = random.choice(SERVICES)
        yield event("pipeline.architecture_diagram_update", {
            "diagramId": f"diagram-{service}", "diagram": {"title": service, "nodes": random.randint(6, 30), "edges": random.randint(8, 50)},
        })


def workflow(number):
    """An agent that comes, works on a project and leaves."""
    agent, project = random.choice(list(AGENTS)), random.choice([*PROJECTS, None])
    who = {"agent_id": agent, "agent_name": AGENTS[agent]}
    yield event("agent.connected", who | {"status": "online"})
    yield event("agent.status_changed", who | {
        "status": "busy", "availability": random.choice([0, 25, 50]), "metadata": {"version": "2.3", "cpu_usage": round(random.uniform(5, 95), 1)},
    })
    about = {"workflow_id": f"wf-{number:04}"} | ({"project_id": project} if project else {})
    yield event("workflow.started", about | {"status": "running"})
    failed = random.random() < 0.2
    for done, step in enumerate(WORK):
        yield event("workflow.progress", about | {
            "status": "running",
            "progress": 100 * done // len(WORK),
            "current_step": step,
            "total_steps": len(WORK),
            "estimated_time_remaining": 20 * (len(WORK) - done),
            "logs": WORK[: done + 1],
            "errors": [],
        })
        if failed and done == 2:
            yield event("workflow.failed", about | {"status": "failed", "errors": ["3 tests failed"]})
            break
    else:
        yield event("workflow.completed", about | {"status": "completed", "progress": 100})
    yield event("agent.status_changed", who | {"status": "idle", "availability": 100})
    yield event("agent.disconnected", who | {"status": "offline"})


def change(number):
    """An issue, the pull request that solves it and what a model says of both."""
    project, user, title = random.choice(list(PROJECTS)), random.choice(USERS), random.choice(TITLES)
    issue = {"issue_id": f"is-{number:04}", "project_id": project, "title": title}
    yield event("issue.created", issue | {"status": "open", "priority": random.choice(["low", "medium", "high"])})
    yield event("issue.updated", issue | {
        "description": "Reported by three people.", "status": "in_progress", "priority": "medium", "assigned_to": user, "updated_at": instant(),
    })
    pull = {"pr_id": f"pr-{number:04}", "project_id": project, "title": title}
    branch = title.lower().replace(" ", "-").replace("'", "")
    yield event("pr.created", pull | {
        "description": f"Solves is-{number:04}.", "author": user.removeprefix("u-"), "branch": branch, "status": "open", "created_at": instant(),
        "github_url": f"https://git.example.com/acme/{PROJECTS[project]}/pull/{number}",
    })
    yield event("ai.suggestion", {
        "suggestion_id": f"sg-{number:04}",
        "target_type": "pr",
        "target_id": pull["pr_id"],
        "project_id": project,
        "category": random.choice(["optimization", "refactor", "bug_fix", "security", "performance", "maintainability"]),
        "title": "Put the three attempts into one loop",
        "description": "The same request is written three times.",
        "severity": random.choice(["info", "warning", "critical"]),
        "confidence": round(random.uniform(0.5, 0.99), 2),
        "suggested_action": "Extract a function",
        "metadata": {"line": random.randint(1, 400)},
    })
    yield event("ai.analysis_complete", {"target_type": "code", "target_id": "src/main", "project_id": random.choice([project, None])})
    yield event("pr.updated", pull | {"status": "approved"})
    yield event("pr.closed", pull | {"status": "merged"})
    yield event("issue.closed", issue | {"status": "closed", "assigned_to": user})
    yield event("project.updated", {
        "project_id": project,
        "project_name": PROJECTS[project].title(),
        "repository_url": f"https://git.example.com/acme/{PROJECTS[project]}",
        "status": "active",
        "updated_by": user,
        "changes": {"fields": ["description"]},
    })
    if number % 9 == 0:
        yield event("project.deleted", {"project_id": f"p-trial-{number}", "deleted_by": user})


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
        while len(running) < 8:
            stories = [incident, proposal, visit, trouble, figures, build, upkeep, workflow, change]
            kind = random.choices(stories, [4, 2, 3, 2, 3, 3, 3, 3, 3])[0]
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
