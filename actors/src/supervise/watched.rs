//! Starting an actor so that its end is told, whatever its cause.

use std::any::Any;
use std::sync::atomic::{AtomicBool, Ordering::SeqCst};
use std::sync::{Arc, OnceLock};

use actix::dev::channel::channel;
use actix::prelude::*;
use tokio::task::{AbortHandle, JoinError};

/// How one life of an actor came to its end.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Ending {
    /// It stopped by itself: `ctx.stop()`, or nobody held its address any more.
    Finished,
    /// A handler, a future or a timer of it panicked, or its factory did; with the panic's text.
    Panicked(String),
    /// It was aborted.
    Killed,
    /// The thread that it lived on is gone.
    ArbiterLost,
}

impl std::fmt::Display for Ending {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Finished => f.write_str("it stopped"),
            Self::Panicked(text) => write!(f, "it panicked: {text}"),
            Self::Killed => f.write_str("it was aborted"),
            Self::ArbiterLost => f.write_str("its thread is gone"),
        }
    }
}

impl From<Result<(), JoinError>> for Ending {
    fn from(end: Result<(), JoinError>) -> Self {
        match end {
            Ok(()) => Self::Finished,
            Err(err) if err.is_panic() => Self::Panicked(panic_text(&*err.into_panic())),
            Err(_) => Self::Killed,
        }
    }
}

/// The message of a panic, whichever of its two usual forms it has.
pub(super) fn panic_text(payload: &(dyn Any + Send)) -> String {
    let text = payload.downcast_ref::<String>().map(String::as_str);
    text.or_else(|| payload.downcast_ref::<&'static str>().copied()).unwrap_or("a panic without a text").to_owned()
}

/// Tells an ending exactly once: the one that was set, or `ArbiterLost` where it is dropped before.
struct Notice<F: FnOnce(Ending)> {
    ending: Ending,
    tell: Option<F>,
}

impl<F: FnOnce(Ending)> Drop for Notice<F> {
    fn drop(&mut self) {
        if let Some(tell) = self.tell.take() {
            tell(std::mem::replace(&mut self.ending, Ending::ArbiterLost));
        }
    }
}

/// The means to end a life from outside, even one that has not begun on its thread yet. It acts at the life's next
/// yield: a life that blocks its thread cannot be ended.
#[derive(Clone, Default)]
pub struct Abort(Arc<(AtomicBool, OnceLock<AbortHandle>)>);

impl Abort {
    /// Ends the life; its parent hears `Killed`.
    pub fn abort(&self) {
        self.0.0.store(true, SeqCst);
        if let Some(handle) = self.0.1.get() {
            handle.abort();
        }
    }

    /// Either this sees that an abort was asked for, or that abort sees the handle.
    fn begin(&self, handle: AbortHandle) {
        let handle = self.0.1.get_or_init(|| handle);
        if self.0.0.load(SeqCst) {
            handle.abort();
        }
    }
}

impl std::fmt::Debug for Abort {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.write_str("Abort")
    }
}

/// Mailbox slots of `try_send`; nothing here uses it, credit bounds what is sent.
const MAILBOX_SLOTS: usize = 16;

/// Starts an actor on an arbiter; `tell` hears of its end, once, from that arbiter's thread or from the one that dropped
/// what was queued for it.
#[expect(clippy::disallowed_methods, reason = "the one place that spawns an actor's life: the handle is kept")]
pub fn start_watched<A, F, T>(arbiter: &ArbiterHandle, make: F, tell: T) -> (Addr<A>, Abort)
where
    A: Actor<Context = Context<A>>,
    F: FnOnce(&mut Context<A>) -> A + Send + 'static,
    T: FnOnce(Ending) + Send + 'static,
{
    let (tx, rx) = channel(MAILBOX_SLOTS);
    let abort = Abort::default();
    let abort_inside = abort.clone();
    // An arbiter that is gone, or goes, drops this future, and the notice with it.
    let mut notice = Notice { ending: Ending::ArbiterLost, tell: Some(tell) };
    arbiter.spawn(async move {
        let life = actix_rt::spawn(async move {
            let mut ctx = Context::with_receiver(rx);
            let actor = make(&mut ctx);
            ctx.into_future(actor).await;
        });
        abort_inside.begin(life.abort_handle());
        notice.ending = life.await.into();
        drop(notice);
    });
    (Addr::new(tx), abort)
}

/// Starts the root of a tree on the current arbiter. A root has no parent: `tell` is the process's wiring, which ends the
/// process or starts the tree again.
pub fn start_root<A, F, T>(make: F, tell: T) -> (Addr<A>, Abort)
where
    A: Actor<Context = Context<A>>,
    F: FnOnce(&mut Context<A>) -> A + Send + 'static,
    T: FnOnce(Ending) + Send + 'static,
{
    start_watched(&Arbiter::current(), make, tell)
}
