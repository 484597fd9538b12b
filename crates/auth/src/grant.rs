//! What a token grants: never more than the key that it is issued for.

use std::time::Duration;

use signalbox_identity::{
    AgentId, Claims, CredentialId, Expectations, FamilyId, Issuance, Permission, Principal, Role,
};
use signalbox_protocol::name;
use time::OffsetDateTime;
use uuid::Uuid;

use crate::config::Options;
use crate::family::Narrowing;
use crate::rejection::Rejection;

/// What tokens say, whoever they are for.
#[derive(Debug)]
pub(crate) struct Terms {
    issuer: String,
    audience: String,
    usual: Duration,
    longest: Duration,
}

impl From<&Options> for Terms {
    fn from(options: &Options) -> Self {
        Self {
            issuer: options.issuer.clone(),
            audience: options.audience.clone(),
            usual: options.token_ttl,
            longest: options.max_token_ttl,
        }
    }
}

impl Terms {
    /// What our own tokens say.
    pub(crate) fn expectations(&self) -> Expectations {
        Expectations {
            issuer: self.issuer.clone(),
            audience: self.audience.clone(),
            leeway: Duration::ZERO,
        }
    }

    /// The claims of a token for `principal`, valid for so many seconds, 0 for
    /// the usual time, and in any case at most for the longest one.
    pub(crate) fn claims(
        &self,
        principal: &Principal,
        ttl_seconds: u32,
        now: OffsetDateTime,
        family: Option<FamilyId>,
    ) -> Claims {
        let wanted = match ttl_seconds {
            0 => self.usual,
            seconds => Duration::from_secs(seconds.into()),
        };
        let id = CredentialId::new(Uuid::now_v7().to_string());
        Claims::issue(
            principal,
            Issuance {
                issuer: self.issuer.clone(),
                audience: self.audience.clone(),
                id: id.expect("a UUID is an id"),
                issued_at: now,
                lifetime: wanted.min(self.longest),
                family,
            },
        )
    }
}

/// Narrows what a key grants to `projects`, unless there are none, and binds
/// it to the agent `agent_id`, unless that is empty.
///
/// # Errors
/// When the key does not grant that much.
pub(crate) fn narrow(
    mut principal: Principal,
    projects: Vec<String>,
    agent_id: String,
) -> Result<Principal, Rejection> {
    if !projects.is_empty() {
        for project in &projects {
            if !name::is_valid(project) {
                return Err(Rejection::NotAName("projects"));
            }
            if !principal.may_access_project(project) {
                return Err(Rejection::ForeignProject(project.clone()));
            }
        }
        principal.projects = projects;
    }
    if !agent_id.is_empty() {
        let agent = AgentId::new(agent_id).map_err(|_| Rejection::NotAName("agent_id"))?;
        if !may_speak_for(&principal, &agent) {
            return Err(Rejection::ForeignAgent);
        }
        principal.agent_id = Some(agent);
    }
    Ok(principal)
}

/// Narrows a principal as a line of tokens was when it began, as far as it still
/// has that much.
///
/// # Errors
/// When nothing is left.
pub(crate) fn narrow_again(
    mut principal: Principal,
    narrowing: &Narrowing,
) -> Result<Principal, Rejection> {
    if !narrowing.projects.is_empty() {
        let mut projects = narrowing.projects.clone();
        projects.retain(|project| principal.may_access_project(project));
        if projects.is_empty() {
            return Err(Rejection::NothingLeft);
        }
        principal.projects = projects;
    }
    let agent_id = narrowing.agent_id.as_ref().map(AgentId::to_string);
    narrow(principal, Vec::new(), agent_id.unwrap_or_default())
}

/// Whether a token of `principal` may be bound to `agent`. A key of role agent
/// without an agent of its own speaks for any.
fn may_speak_for(principal: &Principal, agent: &AgentId) -> bool {
    let own = principal.agent_id.as_ref();
    let is_agent = principal.role == Some(Role::Agent);
    principal.permissions.contains(Permission::Admin)
        || is_agent && own.is_none_or(|own| own == agent)
}

#[cfg(test)]
mod tests {
    use signalbox_identity::{Limits, Origin, UserId};

    use super::*;

    fn principal(role: Role, projects: &[&str], agent_id: Option<&str>) -> Principal {
        Principal {
            subject: UserId::new("user-1").unwrap(),
            name: "Ada".to_owned(),
            role: Some(role),
            permissions: role.permissions(),
            projects: projects.iter().map(|&project| project.to_owned()).collect(),
            agent_id: agent_id.map(|id| AgentId::new(id).unwrap()),
            limits: Limits::default(),
            expires_at: None,
            credential: CredentialId::new("key-1").unwrap(),
            origin: Origin::default(),
        }
    }

    fn projects(key: Principal, asked: &[&str]) -> Result<Vec<String>, Rejection> {
        let asked = asked.iter().map(|&project| project.to_owned()).collect();
        narrow(key, asked, String::new()).map(|principal| principal.projects)
    }

    fn agent(key: Principal, asked: &str) -> Result<Option<AgentId>, Rejection> {
        narrow(key, Vec::new(), asked.to_owned()).map(|principal| principal.agent_id)
    }

    #[test]
    fn projects_narrow_and_never_widen() {
        let key = || principal(Role::Viewer, &["apollo", "gemini"], None);
        assert_eq!(projects(key(), &[]).unwrap(), ["apollo", "gemini"]);
        assert_eq!(projects(key(), &["gemini"]).unwrap(), ["gemini"]);
        let refused = projects(key(), &["gemini", "vostok"]).unwrap_err();
        assert_eq!(refused.code().as_str(), "FORBIDDEN");
        assert!(refused.to_string().contains("vostok"));
    }

    #[test]
    fn an_administrator_may_take_any_project() {
        let key = principal(Role::Admin, &[], None);
        assert_eq!(projects(key, &["vostok"]).unwrap(), ["vostok"]);
    }

    #[test]
    fn names_that_are_none_are_refused_by_their_field() {
        let key = || principal(Role::Admin, &[], None);
        for refused in [
            projects(key(), &["a b"]).map(drop),
            projects(key(), &[""]).map(drop),
            agent(key(), "a\nb").map(drop),
        ] {
            assert_eq!(refused.unwrap_err().code().as_str(), "INVALID_MESSAGE");
        }
    }

    #[test]
    fn an_agent_speaks_for_itself_alone() {
        let seven = Some(AgentId::new("agent-7").unwrap());
        let own = || principal(Role::Agent, &[], Some("agent-7"));
        assert_eq!(agent(own(), "").unwrap(), seven);
        assert_eq!(agent(own(), "agent-7").unwrap(), seven);
        assert!(agent(own(), "agent-8").is_err());

        let any = || principal(Role::Agent, &[], None);
        assert_eq!(agent(any(), "agent-7").unwrap(), seven);
        assert_eq!(agent(any(), "").unwrap(), None);
    }

    #[test]
    fn of_the_others_only_administrators_speak_for_agents() {
        for role in Role::ALL {
            let allowed = agent(principal(role, &[], None), "agent-7").is_ok();
            let expected = matches!(role, Role::Admin | Role::Agent);
            assert_eq!(allowed, expected, "{role}");
        }
    }

    #[test]
    fn lifetimes_are_as_asked_within_the_limit() {
        let terms = Terms {
            issuer: "us".to_owned(),
            audience: "them".to_owned(),
            usual: Duration::from_secs(900),
            longest: Duration::from_secs(3_600),
        };
        let now = OffsetDateTime::now_utc();
        let key = principal(Role::Viewer, &[], None);
        for (asked, given) in [
            (0, 900),
            (60, 60),
            (3_600, 3_600),
            (3_601, 3_600),
            (u32::MAX, 3_600),
        ] {
            let claims = terms.claims(&key, asked, now, None);
            assert_eq!((claims.exp - claims.iat).whole_seconds(), given, "{asked}");
        }
    }

    #[test]
    fn every_token_has_an_id_of_its_own() {
        let options = Terms {
            issuer: "us".to_owned(),
            audience: "them".to_owned(),
            usual: Duration::from_secs(900),
            longest: Duration::from_secs(900),
        };
        let key = principal(Role::Viewer, &[], None);
        let now = OffsetDateTime::now_utc();
        let (one, two) = (
            options.claims(&key, 0, now, None),
            options.claims(&key, 0, now, None),
        );
        assert_ne!(one.jti, two.jti);
        assert_eq!(
            Uuid::parse_str(one.jti.as_str()).unwrap().get_version_num(),
            7
        );
        assert_eq!(one.iss, "us");
        assert!(one.aud.contains("them"));
    }
}
