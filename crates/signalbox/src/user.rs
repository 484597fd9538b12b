//! `signalbox user`: people who log in with a password.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use anyhow::{Context as _, bail};
use clap::{Args, Subcommand};
use nix::sys::termios::{LocalFlags, SetArg, tcgetattr, tcsetattr};
use serde_json::{Value, json};
use signalbox_identity::Role;
use signalbox_protocol::wire::manage_reply::Outcome;
use signalbox_protocol::wire::manage_request::Operation;
use signalbox_protocol::wire::{self, revocation_target::Target};
use signalbox_service::ExitError;

use crate::administration::{self, Administration, SystemArgs, cell, table, unexpected};
use crate::key::{LimitArgs, told};
use crate::output;

#[derive(Subcommand, Clone, Debug)]
pub(crate) enum UserCommand {
    /// Make a user; the password is asked for, or read from standard input
    Create(CreateArgs),
    /// List users
    List(SystemArgs),
    /// Change a user; what narrows it takes effect at once
    Set(SetArgs),
    /// Set a new password, which ends all tokens of the user
    Passwd(NameArgs),
    /// End all tokens of a user, and revoke all API keys that act as it
    Revoke(NameArgs),
    /// Delete a user and end all its tokens
    Delete(NameArgs),
}

#[derive(Args, Clone, Debug)]
pub(crate) struct NameArgs {
    #[command(flatten)]
    system: SystemArgs,
    /// The user's name
    username: String,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct CreateArgs {
    #[command(flatten)]
    user: NameArgs,
    /// What the user may do
    #[arg(long)]
    role: Role,
    /// The name shown to people [default: the username]
    #[arg(long, default_value = "", hide_default_value = true)]
    name: String,
    /// A project of the user; repeatable
    #[arg(long, value_name = "ID")]
    project: Vec<String>,
    #[command(flatten)]
    limits: LimitArgs,
}

#[derive(Args, Clone, Debug)]
pub(crate) struct SetArgs {
    #[command(flatten)]
    user: NameArgs,
    /// What the user may do
    #[arg(long)]
    role: Option<Role>,
    /// The name shown to people
    #[arg(long)]
    name: Option<String>,
    /// A project of the user, instead of those so far; repeatable
    #[arg(long, value_name = "ID", conflicts_with = "no_projects")]
    project: Vec<String>,
    /// No project
    #[arg(long)]
    no_projects: bool,
    /// Keep the user out, and end all its tokens
    #[arg(long, conflicts_with = "enable")]
    disable: bool,
    /// Let the user in again
    #[arg(long)]
    enable: bool,
    #[command(flatten)]
    limits: LimitArgs,
}

pub(crate) fn run(command: UserCommand) -> Result<(), ExitError> {
    match command {
        UserCommand::Create(args) => {
            let system = args.user.system.clone();
            let password = password().map_err(ExitError::config)?;
            administration::run("user", &system, async |it| {
                let asked = wire::CreateUser {
                    username: args.user.username,
                    password,
                    role: args.role.to_string(),
                    name: args.name,
                    projects: args.project,
                    messages_per_minute: args.limits.messages_per_minute.unwrap_or(0),
                    agent_chats_per_hour: args.limits.chats_per_hour.unwrap_or(0),
                };
                changed(it, Operation::CreateUser(asked), "created", system.json).await
            })
        }
        UserCommand::List(system) => {
            administration::run("user", &system, async |it| list(it, system.json).await)
        }
        UserCommand::Set(args) => {
            let system = args.user.system.clone();
            administration::run("user", &system, async |it| {
                let replaced = args.no_projects || !args.project.is_empty();
                let asked = wire::ChangeUser {
                    username: args.user.username,
                    password: None,
                    role: args.role.map(|role| role.to_string()),
                    name: args.name,
                    projects: replaced.then_some(wire::Names {
                        names: args.project,
                    }),
                    messages_per_minute: args.limits.messages_per_minute,
                    agent_chats_per_hour: args.limits.chats_per_hour,
                    disabled: (args.disable || args.enable).then_some(args.disable),
                };
                changed(it, Operation::ChangeUser(asked), "changed", system.json).await
            })
        }
        UserCommand::Passwd(args) => {
            let password = password().map_err(ExitError::config)?;
            administration::run("user", &args.system, async |it| {
                let asked = wire::ChangeUser {
                    username: args.username.clone(),
                    password: Some(password),
                    ..wire::ChangeUser::default()
                };
                changed(
                    it,
                    Operation::ChangeUser(asked),
                    "changed",
                    args.system.json,
                )
                .await
            })
        }
        UserCommand::Revoke(args) => administration::run("user", &args.system, async |it| {
            it.revoke(Target::Subject(args.username.clone())).await?;
            told(args.system.json, json!({"revoked": args.username}), || {
                format!("revoked all that acts as {}", args.username)
            })
        }),
        UserCommand::Delete(args) => administration::run("user", &args.system, async |it| {
            let username = args.username.clone();
            it.ask(Operation::DeleteUser(wire::DeleteUser { username }))
                .await?;
            told(args.system.json, json!({"deleted": args.username}), || {
                format!("deleted {}", args.username)
            })
        }),
    }
}

async fn changed(
    administration: &Administration,
    operation: Operation,
    what: &str,
    as_json: bool,
) -> anyhow::Result<()> {
    match administration.ask(operation).await? {
        Outcome::User(user) => told(as_json, describe(&user), || {
            format!("{what} {}", cell(&user.username))
        }),
        _ => Err(unexpected()),
    }
}

async fn list(administration: &Administration, as_json: bool) -> anyhow::Result<()> {
    let mut users: Vec<wire::User> = Vec::new();
    loop {
        let after = users.last().map(|user| user.username.clone());
        let asked = wire::ListUsers {
            after: after.unwrap_or_default(),
            limit: 0,
        };
        let Outcome::Users(page) = administration.ask(Operation::ListUsers(asked)).await? else {
            return Err(unexpected());
        };
        let more = page.more && !page.users.is_empty();
        users.extend(page.users);
        if !more {
            break;
        }
    }
    if as_json {
        for user in &users {
            output::line(describe(user))?;
        }
        return Ok(());
    }
    let head = ["USER", "ROLE", "STATE", "PROJECTS", "CREATED", "NAME"];
    let mut rows = vec![head.map(str::to_owned)];
    rows.extend(users.iter().map(|user| {
        let state = if user.disabled { "disabled" } else { "active" };
        let projects = user.projects.join(",");
        [
            &user.username,
            &user.role,
            state,
            &projects,
            &user.created_at,
            &user.name,
        ]
        .map(|text: &str| cell(text))
    }));
    for line in table(&rows) {
        output::line(line)?;
    }
    Ok(())
}

fn describe(user: &wire::User) -> Value {
    json!({
        "username": user.username,
        "name": user.name,
        "role": user.role,
        "projects": user.projects,
        "limits": {
            "messages_per_minute": user.messages_per_minute,
            "agent_chats_per_hour": user.agent_chats_per_hour,
        },
        "disabled": user.disabled,
        "created_at": user.created_at,
    })
}

/// Reads a password from standard input: from a terminal twice and unseen, else
/// one line. It is never an argument, which others on the machine could read.
fn password() -> anyhow::Result<String> {
    if !io::stdin().is_terminal() {
        return read_line();
    }
    let first = unseen("Password: ")?;
    if unseen("Again: ")? != first {
        bail!("the two are not the same");
    }
    Ok(first)
}

/// Asks on the terminal without showing what is typed.
fn unseen(prompt: &str) -> anyhow::Result<String> {
    let stdin = io::stdin();
    let shown = tcgetattr(&stdin).context("terminal")?;
    let mut hidden = shown.clone();
    hidden.local_flags.remove(LocalFlags::ECHO);
    hidden.local_flags.insert(LocalFlags::ECHONL);
    let mut stderr = io::stderr();
    write!(stderr, "{prompt}")?;
    stderr.flush()?;
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &hidden).context("terminal")?;
    let line = read_line();
    tcsetattr(&stdin, SetArg::TCSAFLUSH, &shown).context("terminal")?;
    line
}

fn read_line() -> anyhow::Result<String> {
    let mut line = String::new();
    io::stdin()
        .lock()
        .read_line(&mut line)
        .context("standard input")?;
    let password = line.trim_end_matches(['\r', '\n']);
    if password.is_empty() {
        bail!("no password on standard input");
    }
    Ok(password.to_owned())
}
