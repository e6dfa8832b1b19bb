//! An end that flushes first: what was sent before is in, what is sent after gets `Closed`.

use std::time::Duration;

use actix::prelude::*;

use super::Abort;

/// Asks an actor to bring to safety what it holds, and then to stop. Its handler is an `AtomicResponse`, or shuts the
/// door in its own way, and calls `ctx.stop()` when done.
#[derive(Debug, Clone, Copy, Message)]
#[rtype(result = "()")]
pub struct Retire;

/// How a retirement went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Retirement {
    /// It flushed and stopped.
    Flushed,
    /// It did not get there within the limit and was aborted: what was not durable is lost to it.
    Aborted,
    /// It was over already.
    Over,
}

/// Retires an actor within `limit`, then aborts it.
pub async fn retire<A>(addr: Addr<A>, abort: Abort, limit: Duration) -> Retirement
where
    A: Actor<Context = Context<A>> + Handler<Retire>,
{
    match addr.send(Retire).timeout(limit).await {
        Ok(()) => Retirement::Flushed,
        Err(MailboxError::Closed) => Retirement::Over,
        Err(MailboxError::Timeout) => {
            abort.abort();
            Retirement::Aborted
        }
    }
}
