//! Which agents a chat may address: none, unless the table says so. Pure.

/// Patterns of agents' ids.
#[derive(Clone, Debug, Default)]
pub(super) struct Allowed {
    patterns: Vec<String>,
}

impl Allowed {
    /// Ids, in which `*` stands for any characters.
    pub(super) const fn new(patterns: Vec<String>) -> Self {
        Self { patterns }
    }

    /// Whether an agent may be addressed.
    ///
    /// # Errors
    /// Says to whoever reads the chat how to allow it.
    pub(super) fn check(&self, agent_id: &str) -> Result<(), String> {
        if self.patterns.iter().any(|pattern| fits(pattern, agent_id)) {
            return Ok(());
        }
        let shown: String = agent_id.chars().take(128).collect();
        Err(format!(
            "agent {shown:?} may not be addressed by chats; who runs Signalbox can allow it \
             in agents.toml, table [tools.run_command]: agents = [{shown:?}], where \
             \"*\" stands for any characters"
        ))
    }
}

/// Whether a text is what a pattern says. Backtracks to the last `*` alone, which
/// is enough, and keeps it linear in the product of both.
fn fits(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let (mut at, mut read) = (0, 0);
    // Behind the last `*`, and where the text goes on if that takes one more.
    let mut last: Option<(usize, usize)> = None;
    while read < text.len() {
        match pattern.get(at) {
            Some(b'*') => {
                at += 1;
                last = Some((at, read));
            }
            Some(byte) if *byte == text[read] => {
                at += 1;
                read += 1;
            }
            _ => {
                let Some((behind, taken)) = last else {
                    return false;
                };
                last = Some((behind, taken + 1));
                (at, read) = (behind, taken + 1);
            }
        }
    }
    pattern[at..].iter().all(|byte| *byte == b'*')
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn no_agent_is_allowed_by_default_and_the_refusal_says_how() {
        let refusal = Allowed::default().check("web-1").unwrap_err();
        assert!(refusal.contains("[tools.run_command]"), "{refusal}");
        assert!(refusal.contains("agents = [\"web-1\"]"), "{refusal}");
    }

    #[test]
    fn a_pattern_allows_what_it_says_and_no_more() {
        let allowed = Allowed::new(vec!["web-*".to_owned(), "db-1".to_owned()]);
        for id in ["web-1", "web-", "db-1"] {
            allowed.check(id).unwrap();
        }
        for id in ["db-2", "db-10", "xweb-1", "web", "", "Web-1"] {
            allowed.check(id).unwrap_err();
        }
        assert!(fits("*-eu-*", "web-eu-1") && !fits("*-eu-*", "web-us-1"));
        assert!(fits("a*b*c", "a-b-b-c") && !fits("a*b*c", "a-b-c-"));
        assert!(fits("*", "ä") && fits("**", "") && !fits("", "a"));
    }

    proptest! {
        /// The parts of a pattern, in their order and with anything between them.
        #[test]
        fn a_pattern_fits_what_it_was_made_of(
            parts in proptest::collection::vec("[ab]{0,3}", 1..5),
            between in proptest::collection::vec("[abc]{0,3}", 4),
        ) {
            let pattern = parts.join("*");
            let mut text = parts[0].clone();
            for (part, filler) in parts[1..].iter().zip(&between) {
                text.push_str(filler);
                text.push_str(part);
            }
            prop_assert!(fits(&pattern, &text), "{} {}", pattern, text);
        }
    }
}
