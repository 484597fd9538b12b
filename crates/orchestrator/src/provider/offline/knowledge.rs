//! What the analyst knows of threats: how people call them, how severe they are
//! by themselves, and what is done about them.

/// How severe something is, in order.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(super) enum Severity {
    Info,
    Low,
    Medium,
    High,
    Critical,
}

impl Severity {
    /// By its name, without regard to case.
    pub(super) fn parse(text: &str) -> Option<Self> {
        let all = [
            Self::Info,
            Self::Low,
            Self::Medium,
            Self::High,
            Self::Critical,
        ];
        all.into_iter()
            .find(|one| one.name().eq_ignore_ascii_case(text))
    }

    /// Its name.
    pub(super) const fn name(self) -> &'static str {
        match self {
            Self::Info => "INFO",
            Self::Low => "LOW",
            Self::Medium => "MEDIUM",
            Self::High => "HIGH",
            Self::Critical => "CRITICAL",
        }
    }

    /// One step up.
    pub(super) const fn raised(self) -> Self {
        match self {
            Self::Info => Self::Low,
            Self::Low => Self::Medium,
            Self::Medium => Self::High,
            Self::High | Self::Critical => Self::Critical,
        }
    }
}

/// An action and why it is taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Action {
    /// As responders call it.
    pub(super) name: &'static str,
    /// What is done; `{source}` and `{host}` are filled in.
    pub(super) what: &'static str,
    /// Why.
    pub(super) why: &'static str,
    /// It cannot be taken back, or stops something that may be needed.
    pub(super) disruptive: bool,
}

/// A kind of threat.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) struct Kind {
    /// In snake case.
    pub(super) name: &'static str,
    /// In a sentence.
    pub(super) phrase: &'static str,
    /// Words that speak of it, in lower case.
    pub(super) words: &'static [&'static str],
    /// How severe it is if nothing else is known.
    pub(super) base: Severity,
    /// What is done, most urgent first.
    pub(super) actions: &'static [Action],
    /// What usually comes next.
    pub(super) next: &'static str,
    /// What would settle whether it is one.
    pub(super) check: &'static str,
}

const PRESERVE: Action = Action {
    name: "preserve_evidence",
    what: "Take a snapshot of the disk and memory of {host} before anything else changes it",
    why: "isolation, restarts and cleaning destroy what shows how it began",
    disruptive: false,
};
const BLOCK: Action = Action {
    name: "block_ip",
    what: "Block {source} at the edge and in the security groups, with an expiry",
    why: "it stops further attempts from there at once and can be taken back",
    disruptive: false,
};
const ISOLATE: Action = Action {
    name: "isolate_instance",
    what: "Isolate {host} from the network, except for the forensic path",
    why: "what runs there can then reach nothing else",
    disruptive: true,
};
const COMPROMISE: Action = Action {
    name: "investigate_compromise",
    what: "Find out who or what uses {source}: processes, sessions, recent changes",
    why: "an inside address that attacks is most often a host that was taken over",
    disruptive: false,
};
const CREDENTIALS: Action = Action {
    name: "rotate_credentials",
    what: "Rotate the credentials that were used on {host}, and end their sessions",
    why: "a password that was guessed or a token that was taken keeps working until then",
    disruptive: true,
};
const ACCOUNT: Action = Action {
    name: "disable_account",
    what: "Disable the account that was used from {source}, and look at where else it was used",
    why: "movement between hosts needs an account; without it, it stops",
    disruptive: true,
};
const PROCESS: Action = Action {
    name: "terminate_process",
    what: "End the suspicious process on {host}, after its binary is kept",
    why: "it costs money and shows that someone can run code there",
    disruptive: true,
};
const OBSERVE: Action = Action {
    name: "collect_more_evidence",
    what: "Collect flow logs and the audit trail of the last 24 hours for {host}",
    why: "there is too little to choose a stronger action by",
    disruptive: false,
};

/// The kind of what fits none of the others.
pub(super) const UNKNOWN: Kind = Kind {
    name: "unknown",
    phrase: "nothing that I have a rule for",
    words: &[],
    base: Severity::Info,
    actions: &[OBSERVE],
    next: "I cannot say",
    check: "an alert, or a description with addresses, counts and times",
};

/// All kinds that there are rules for.
pub(super) const KINDS: &[Kind] = &[
    Kind {
        name: "port_scanning",
        phrase: "port scanning",
        words: &[
            "port scan",
            "portscan",
            "scanning",
            "ports_scanned",
            "probed",
            "nmap",
            "reconnaissance",
        ],
        base: Severity::Low,
        actions: &[BLOCK, COMPROMISE, PRESERVE],
        next: "attempts on the services that were found open",
        check: "whether the source is a scanner of your own, and whether any scanned port answered",
    },
    Kind {
        name: "brute_force",
        phrase: "password guessing",
        words: &[
            "brute force",
            "brute-force",
            "failed login",
            "failed ssh",
            "password",
            "credential stuffing",
            "failed_logins",
            "login_failures",
        ],
        base: Severity::Medium,
        actions: &[BLOCK, CREDENTIALS, PRESERVE],
        next: "use of an account whose password was found",
        check: "whether a login succeeded after the failures, and from where",
    },
    Kind {
        name: "crypto_mining",
        phrase: "mining of crypto currency",
        words: &["mining", "miner", "cryptojack", "stratum", "mining pool"],
        base: Severity::Medium,
        actions: &[PRESERVE, ISOLATE, PROCESS],
        next: "more hosts with the same binary, since the way in is still open",
        check: "which process holds the cores, and how its binary came to the host",
    },
    Kind {
        name: "data_exfiltration",
        phrase: "theft of data",
        words: &[
            "exfiltrat",
            "data leak",
            "data theft",
            "bytes_out",
            "large upload",
            "leaves the network",
        ],
        base: Severity::High,
        actions: &[PRESERVE, BLOCK, ISOLATE],
        next: "extortion, or further copies by the same path",
        check: "what was sent, and whether a backup or a release explains the volume",
    },
    Kind {
        name: "lateral_movement",
        phrase: "movement from host to host",
        words: &[
            "lateral",
            "remote execution",
            "psexec",
            "pass the hash",
            "other hosts",
        ],
        base: Severity::High,
        actions: &[PRESERVE, ACCOUNT, ISOLATE],
        next: "access to the systems that the account may administer",
        check: "whether the account's owner or an automation was at work",
    },
    Kind {
        name: "privilege_escalation",
        phrase: "gain of privileges",
        words: &[
            "privilege escalation",
            "privileged session",
            "sudo",
            "became root",
            "assumerole",
        ],
        base: Severity::High,
        actions: &[PRESERVE, CREDENTIALS, ISOLATE],
        next: "persistence, and movement with the new rights",
        check: "whether a change that was announced explains the new rights",
    },
    Kind {
        name: "malware",
        phrase: "malware",
        words: &[
            "malware",
            "ransom",
            "trojan",
            "backdoor",
            "beacon",
            "c2",
            "command and control",
        ],
        base: Severity::High,
        actions: &[PRESERVE, ISOLATE, CREDENTIALS],
        next: "orders from outside, spread, or encryption of data",
        check: "the file's hash against known indicators, and where else it lies",
    },
    Kind {
        name: "denial_of_service",
        phrase: "a denial of service",
        words: &[
            "ddos",
            "denial of service",
            "syn flood",
            "requests_per_second",
            "flooding",
        ],
        base: Severity::Medium,
        actions: &[BLOCK, OBSERVE],
        next: "more sources, or another attack behind the noise",
        check: "whether a campaign or a release explains the load",
    },
    Kind {
        name: "phishing",
        phrase: "phishing",
        words: &[
            "phishing",
            "spear-phish",
            "suspicious mail",
            "suspicious email",
        ],
        base: Severity::Medium,
        actions: &[CREDENTIALS, OBSERVE],
        next: "logins with the passwords that were entered",
        check: "who opened the link, and whether anyone entered a password",
    },
];

/// The kind of a name as producers write it.
pub(super) fn kind_named(name: &str) -> Option<&'static Kind> {
    let name = name.trim().to_ascii_lowercase().replace([' ', '-'], "_");
    KINDS.iter().find(|kind| kind.name == name)
}

/// The kinds that a text in lower case speaks of, most mentions first.
pub(super) fn kinds_in(text: &str) -> Vec<&'static Kind> {
    let mut found: Vec<(usize, &Kind)> = KINDS
        .iter()
        .filter_map(|kind| {
            let spoken = kind.phrase == text || text.contains(&kind.name.replace('_', " "));
            let words = kind
                .words
                .iter()
                .filter(|word| text.contains(**word))
                .count();
            let count = words + usize::from(spoken) + usize::from(text.contains(kind.name));
            (count > 0).then_some((count, kind))
        })
        .collect();
    found.sort_by_key(|(count, _)| std::cmp::Reverse(*count));
    found.into_iter().map(|(_, kind)| kind).collect()
}
