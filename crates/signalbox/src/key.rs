//! `signalbox key`: API keys, roles, and the keys that sign tokens.

use std::path::PathBuf;

use clap::{Args, Subcommand};
use serde_json::{Value, json};
use signalbox_auth::bootstrap;
use signalbox_identity::Role;
use signalbox_protocol::wire::manage_reply::Outcome;
use signalbox_protocol::wire::manage_request::Operation;
use signalbox_protocol::wire::{self, revocation_target::Target};
use signalbox_service::ExitError;

use crate::administration::{self, Administration, SystemArgs, cell, table, unexpected};
use crate::cli::DataArgs;
use crate::output;
use crate::services::SIGNING_KEYS;

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum KeyCommand {
    /// Make an API key and print it, this once
    Create(CreateArgs),
    /// List API keys
    List(SystemArgs),
    /// Change an API key; what narrows it takes effect at once
    Set(SetArgs),
    /// Revoke an API key and all tokens that were issued for it
    Revoke(RevokeArgs),
    /// Print the roles and what each may do
    Roles(RolesArgs),
    /// Make a new key that signs tokens; it takes over a minute later
    Rotate(RotateArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    system: SystemArgs,
    /// What it may do
    #[arg(long)]
    role: Role,
    /// What people call it [default: its id]
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// The user or system that it acts as [default: key:ID]
    #[arg(long, default_value = "", hide_default_value = true)]
    subject: String,
    /// A project that it belongs to; repeatable
    #[arg(long, value_name = "ID")]
    project: Vec<String>,
    /// The agent that it speaks for
    #[arg(long, value_name = "ID", default_value = "", hide_default_value = true)]
    agent_id: String,
    #[command(flatten)]
    limits: LimitArgs,
}

/// How much may be sent.
#[derive(Args, Clone, Copy, Debug)]
pub(crate) struct LimitArgs {
    /// Messages per minute
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) messages_per_minute: Option<u32>,
    /// Chats with agents per hour
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..))]
    pub(crate) chats_per_hour: Option<u32>,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    system: SystemArgs,
    /// The key's id, as `list` shows it
    id: String,
    /// What it may do
    #[arg(long)]
    role: Option<Role>,
    /// What people call it
    #[arg(long)]
    name: Option<String>,
    /// A project that it belongs to, instead of those so far; repeatable
    #[arg(long, value_name = "ID", conflicts_with = "no_projects")]
    project: Vec<String>,
    /// No project
    #[arg(long)]
    no_projects: bool,
    /// The agent that it speaks for
    #[arg(long, value_name = "ID")]
    agent_id: Option<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RevokeArgs {
    #[command(flatten)]
    system: SystemArgs,
    /// The key's id, as `list` shows it
    id: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RolesArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct RotateArgs {
    #[command(flatten)]
    data: DataArgs,
    /// The directory that the auth service watches [default: that of `up`]
    #[arg(long, env = "SIGNALBOX_SIGNING_KEYS", value_name = "DIR")]
    signing_keys: Option<PathBuf>,
}

pub(crate) fn run(command: KeyCommand) -> Result<(), ExitError> {
    match command {
        KeyCommand::Create(args) => {
            let system = args.system.clone();
            administration::run("key", &system, async |it| create(it, args).await)
        }
        KeyCommand::List(system) => {
            administration::run("key", &system, async |it| list(it, system.json).await)
        }
        KeyCommand::Set(args) => {
            let system = args.system.clone();
            administration::run("key", &system, async |it| set(it, args).await)
        }
        KeyCommand::Revoke(args) => administration::run("key", &args.system, async |it| {
            it.revoke(Target::KeyId(args.id.clone())).await?;
            told(args.system.json, json!({"revoked": args.id}), || {
                format!("revoked {}", args.id)
            })
        }),
        KeyCommand::Roles(args) => roles(args.json),
        KeyCommand::Rotate(args) => {
            let dir = args
                .signing_keys
                .unwrap_or_else(|| args.data.data_dir.join(SIGNING_KEYS));
            let kid = bootstrap::rotate_signing_key(&dir).map_err(ExitError::config)?;
            output::line(format!("{kid} in {}", dir.display())).map(drop)
        }
    }
}

/// Prints JSON or a sentence.
pub(crate) fn told(
    as_json: bool,
    json: Value,
    sentence: impl FnOnce() -> String,
) -> anyhow::Result<()> {
    if as_json {
        output::line(json)?;
    } else {
        output::line(sentence())?;
    }
    Ok(())
}

async fn create(administration: &Administration, args: CreateArgs) -> anyhow::Result<()> {
    let asked = wire::CreateKey {
        role: args.role.to_string(),
        name: args.name,
        subject: args.subject,
        projects: args.project,
        agent_id: args.agent_id,
        messages_per_minute: args.limits.messages_per_minute.unwrap_or(0),
        agent_chats_per_hour: args.limits.chats_per_hour.unwrap_or(0),
    };
    match administration.ask(Operation::CreateKey(asked)).await? {
        Outcome::CreatedKey(wire::CreatedKey {
            key: Some(key),
            api_key,
        }) => {
            let mut json = describe(&key);
            json["api_key"] = json!(api_key);
            told(args.system.json, json, || api_key)
        }
        _ => Err(unexpected()),
    }
}

async fn set(administration: &Administration, args: SetArgs) -> anyhow::Result<()> {
    let replaced = args.no_projects || !args.project.is_empty();
    let asked = wire::ChangeKey {
        id: args.id,
        role: args.role.map(|role| role.to_string()),
        name: args.name,
        projects: replaced.then_some(wire::Names {
            names: args.project,
        }),
        agent_id: args.agent_id,
        messages_per_minute: args.limits.messages_per_minute,
        agent_chats_per_hour: args.limits.chats_per_hour,
    };
    match administration.ask(Operation::ChangeKey(asked)).await? {
        Outcome::Key(key) => told(args.system.json, describe(&key), || {
            format!("changed {}", key.id)
        }),
        _ => Err(unexpected()),
    }
}

async fn list(administration: &Administration, as_json: bool) -> anyhow::Result<()> {
    let mut keys: Vec<wire::Key> = Vec::new();
    loop {
        let after = keys.last().map(|key| key.id.clone()).unwrap_or_default();
        let asked = wire::ListKeys { after, limit: 0 };
        let Outcome::Keys(page) = administration.ask(Operation::ListKeys(asked)).await? else {
            return Err(unexpected());
        };
        let more = page.more && !page.keys.is_empty();
        keys.extend(page.keys);
        if !more {
            break;
        }
    }
    if as_json {
        for key in &keys {
            output::line(describe(key))?;
        }
        return Ok(());
    }
    let head = [
        "ID", "ROLE", "STATE", "ACTS AS", "PROJECTS", "AGENT", "CREATED", "NAME",
    ];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(keys.iter().map(|key| {
        let state = if key.revoked { "revoked" } else { "active" };
        let projects = key.projects.join(",");
        [
            &key.id,
            &key.role,
            state,
            &key.subject,
            &projects,
            &key.agent_id,
            &key.created_at,
            &key.name,
        ]
        .map(|text: &str| cell(text))
    }));
    for line in table(&rows) {
        output::line(line)?;
    }
    Ok(())
}

fn describe(key: &wire::Key) -> Value {
    json!({
        "id": key.id,
        "name": key.name,
        "role": key.role,
        "subject": key.subject,
        "projects": key.projects,
        "agent_id": Some(&key.agent_id).filter(|id| !id.is_empty()),
        "limits": {
            "messages_per_minute": key.messages_per_minute,
            "agent_chats_per_hour": key.agent_chats_per_hour,
        },
        "created_at": key.created_at,
        "revoked": key.revoked,
    })
}

fn roles(as_json: bool) -> Result<(), ExitError> {
    let words = |role: Role| role.permissions().words().collect::<Vec<_>>();
    if as_json {
        let roles = Role::ALL.map(|role| (role.to_string(), json!(words(role))));
        return output::line(Value::Object(roles.into_iter().collect())).map(drop);
    }
    let rows = Role::ALL.map(|role| {
        let words = match words(role).join(" ") {
            none if none.is_empty() => "(its own agent on the agents' endpoint)".to_owned(),
            words => words,
        };
        [role.to_string(), words]
    });
    for line in table(&rows) {
        output::line(line)?;
    }
    Ok(())
}
