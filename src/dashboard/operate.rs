//! Asks whether a command is allowed, gives it to its handle, and says who did.

use std::sync::Arc;

use http::request::Parts;
use serde::Serialize;
use tokio::task::spawn_blocking;

use super::command::{Command, CommandError, Done, ErrorCode};
use super::hub::Hub;
use super::log::{Said, unix_millis};
use super::pattern::Pattern;
use super::shown::Shown;
use super::words::clipped;
use crate::util::time;

/// As for everything that the crate logs.
const LOG: &str = "tower_bulwark";

/// The answer to a command.
#[derive(Debug, Serialize)]
pub(super) struct Answer {
    who: String,
    from: String,
    to: String,
}

pub(super) async fn operate(
    hub: &Arc<Hub>,
    request: &Parts,
    command: Command,
) -> Result<Answer, CommandError> {
    let denied = |why: String| CommandError::new(ErrorCode::Denied, why);
    let Some(hook) = &hub.authorize else {
        return Err(denied("this dashboard takes no commands".into()));
    };
    let (pattern, action) = (command.pattern.id(), command.action.name());
    let operator = match hook.authorize(request, &command).await {
        Ok(operator) => operator,
        Err(why) => {
            tracing::warn!(
                target: LOG,
                pattern,
                name = clipped(&command.name),
                command = action,
                %why,
                "a command was denied"
            );
            return Err(denied(why.to_string()));
        }
    };
    // Once begun it is done and told, also if the browser goes away meanwhile.
    let (hub, who) = (Arc::clone(hub), operator.name().to_owned());
    let told = tokio::spawn(async move { carry_out(&hub, who, command).await });
    let failed = |_| CommandError::new(ErrorCode::Busy, "the server shuts down");
    told.await.map_err(failed)?
}

/// Gives the command, and says so in the log and on the page.
async fn carry_out(hub: &Arc<Hub>, who: String, command: Command) -> Result<Answer, CommandError> {
    let looking = Arc::clone(hub);
    // To find a key may take a while, and so may a reset.
    let done = spawn_blocking(move || {
        let Done { from, to } = give(&looking, &command)?;
        let said = Said {
            at: unix_millis(time::wall_clock()),
            who,
            pattern: command.pattern.id(),
            name: clipped(&command.name),
            group: command.group.as_deref().map(clipped),
            command: command.action.name(),
            from,
            to,
        };
        tracing::warn!(
            target: LOG,
            who = said.who,
            pattern = said.pattern,
            name = said.name,
            group = said.group,
            command = said.command,
            from = said.from,
            to = said.to,
            "an operator's command"
        );
        looking.say(said.clone());
        Ok(said)
    });
    let failed = "the command failed: see the log of the server";
    let failed = |_| CommandError::new(ErrorCode::Busy, failed);
    let Said { who, from, to, .. } = done.await.map_err(failed)??;
    hub.forget_frame().await;
    Ok(Answer { who, from, to })
}

fn give(hub: &Hub, command: &Command) -> Result<Done, CommandError> {
    if let Some(group) = &command.group {
        let mut groups = hub.groups.iter();
        let known = groups.find(|it| it.name == *group && it.group.pattern() == command.pattern);
        return match known {
            Some(known) => known.group.command(&command.name, &command.action),
            None => {
                let message = format!("there is no group `{}` of this pattern", clipped(group));
                Err(CommandError::new(ErrorCode::UnknownName, message))
            }
        };
    }
    let (registry, name) = (&hub.registry, &*command.name);
    match command.pattern {
        Pattern::CircuitBreaker => to(registry.get_circuit_breaker(name), command),
        Pattern::ResourceLock => to(registry.get_resource_lock(name), command),
        Pattern::RateLimit => to(registry.get_rate_limit(name), command),
        Pattern::Retry => to(registry.get_retry(name), command),
        Pattern::Hedge => to(registry.get_hedge(name), command),
        Pattern::Fallback => to(registry.get_fallback(name), command),
        Pattern::Throttle => to(registry.get_throttle(name), command),
        Pattern::Timeouts => to(registry.get_timeouts(name), command),
        Pattern::Chaos => to(registry.get_chaos(name), command),
        Pattern::Fleet
        | Pattern::FleetCircuitBreaker
        | Pattern::FleetLock
        | Pattern::FleetRateLimit => Err(command.action.does_not_fit(command.pattern)),
    }
}

fn to<T: Shown>(handle: Option<T>, command: &Command) -> Result<Done, CommandError> {
    match handle {
        Some(handle) => handle.command(&command.action),
        None => {
            let (pattern, name) = (command.pattern, clipped(&command.name));
            let message = format!("there is no {pattern} `{name}`");
            Err(CommandError::new(ErrorCode::UnknownName, message))
        }
    }
}
