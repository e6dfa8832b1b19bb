//! The warden: a parent's children of one kind, kept alive.
//!
//! ```text
//!              admit                     Ended: panic, stall, lost thread
//!   (none) ───────────▶ alive ─────────────────────────────────────────▶ waiting ──(backoff)──▶ alive
//!                         │  ▲                                              │
//!               Finished, │  └────────────── resume ────── given up ◀───────┘ too many within the window
//!               retired   ▼
//!                       (none)
//! ```
//!
//! It is a field of the parent actor, not an actor: a parent that ends drops it, and its children with it. At most one
//! timer and one interval per warden wait in the parent's context, however many children there are: each future there
//! would cost every message of the parent a poll.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Debug;
use std::hash::Hash;
use std::sync::Arc;
use std::time::Duration;

use actix::prelude::*;
use slog::{Logger, debug, error, warn};
use tokio::time::Instant;

use super::watched::{Abort, Ending, start_watched};
use super::{ChildState, Life, Placement, RestartPolicy, Retire, Retirement, Vitals, retire};

/// A kind of child: how a life of it is made from what is durable.
pub trait Ward: Actor<Context = Context<Self>> {
    /// What tells siblings apart.
    type Id: Clone + Ord + Hash + Debug + Send + Unpin + 'static;
    /// What every life is made of.
    type Spec: Clone + Send + Unpin + 'static;
    /// What the log calls it.
    const KIND: &'static str;

    /// Makes a life. A panic in here counts as a failed life.
    fn revive(spec: Self::Spec, life: Life, ctx: &mut Context<Self>) -> Self;
}

/// An actor with children of kind `W`.
///
/// Its `started` calls [`attend`], its `Handler<Ended<W>>` calls [`on_ended`]; nothing else is needed.
pub trait Parent<W: Ward>: Actor<Context = Context<Self>> + Handler<Ended<W>> {
    /// The children.
    fn warden(&mut self) -> &mut Warden<W>;

    /// A life of a child has begun (the first one too): its address is new.
    fn child_born(&mut self, _child: &W::Id, _addr: Addr<W>, _incarnation: u64, _ctx: &mut Context<Self>) {}

    /// A life of a child is over.
    fn child_lost(&mut self, _child: &W::Id, _loss: Loss, _ctx: &mut Context<Self>) {}

    /// A child blocks its thread: it was told to end and cannot. Said once in a life.
    fn child_blocked(&mut self, _child: &W::Id, _ctx: &mut Context<Self>) {}
}

/// What follows from the end of a child's life.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Loss {
    /// It will be started again.
    Restarting {
        /// How the life ended.
        ending: Ending,
        /// When, from now.
        pause: Duration,
    },
    /// It failed too often: the parent decides (escalates, or rests and calls [`Warden::resume`]).
    GaveUp {
        /// How the last life ended.
        ending: Ending,
    },
    /// It ended on purpose and is no longer a child.
    Finished,
}

/// To the parent: one life of a child is over.
#[derive(Message)]
#[rtype(result = "()")]
pub struct Ended<W: Ward> {
    child: W::Id,
    life: u64,
    ending: Ending,
}

struct Cell<W: Ward> {
    spec: W::Spec,
    incarnation: u64,
    /// The number of the present life among all lives of the warden: a child that was dismissed and admitted again
    /// counts its incarnations anew, and the end of its former life must not be taken for that of the new one.
    number: u64,
    life: Option<(Addr<W>, Abort)>,
    restarts: Vec<Instant>,
    vitals: Arc<Vitals>,
    seen: (u64, Instant),
    /// The present life stood still and was told to end.
    aborted: bool,
    /// The parent was told that it blocks its thread.
    blocked: bool,
    /// Set when it is to end: any ending is then final.
    leaving: bool,
}

/// A life never outlives its cell.
impl<W: Ward> Drop for Cell<W> {
    fn drop(&mut self) {
        if let Some((_, abort)) = &self.life {
            abort.abort();
        }
    }
}

/// The children of one kind.
pub struct Warden<W: Ward> {
    log: Logger,
    placement: Placement,
    policy: RestartPolicy,
    cells: BTreeMap<W::Id, Cell<W>>,
    due: BTreeSet<(Instant, W::Id)>,
    timer: Option<SpawnHandle>,
    /// How many lives were begun.
    begun: u64,
    /// When the children were looked at last.
    looked: Instant,
}

impl<W: Ward> Warden<W> {
    /// Without children yet.
    pub fn new(log: Logger, placement: Placement, policy: RestartPolicy) -> Self {
        let (cells, due, looked) = (BTreeMap::new(), BTreeSet::new(), Instant::now());
        Self { log, placement, policy, cells, due, timer: None, begun: 0, looked }
    }

    /// The present life of a child.
    pub fn get(&self, child: &W::Id) -> Option<&Addr<W>> {
        self.cells.get(child)?.life.as_ref().map(|(addr, _)| addr)
    }

    /// The life of a child that is later than the one the caller saw die, with its number.
    ///
    /// The answer to a call can say `Closed` before the parent hears of the death. So a caller says which life it saw
    /// die, and never gets that one again; 0 stands for none.
    pub fn locate(&self, child: &W::Id, after: u64) -> Option<(Addr<W>, u64)> {
        let cell = self.cells.get(child).filter(|cell| cell.incarnation > after)?;
        Some((cell.life.as_ref()?.0.clone(), cell.incarnation))
    }

    /// The children there are, alive or not.
    pub fn children(&self) -> impl Iterator<Item = &W::Id> {
        self.cells.keys()
    }

    /// Every present life.
    pub fn lives(&self) -> impl Iterator<Item = (&W::Id, &Addr<W>)> {
        self.cells.iter().filter_map(|(id, cell)| Some((id, &cell.life.as_ref()?.0)))
    }

    /// Whether there is such a child.
    pub fn contains(&self, child: &W::Id) -> bool {
        self.cells.contains_key(child)
    }

    /// What every life of a child is made of.
    pub fn spec(&self, child: &W::Id) -> Option<&W::Spec> {
        self.cells.get(child).map(|cell| &cell.spec)
    }

    /// Later lives of the child are made of `spec`; its present life goes on.
    pub fn set_spec(&mut self, child: &W::Id, spec: W::Spec) {
        if let Some(cell) = self.cells.get_mut(child) {
            cell.spec = spec;
        }
    }

    /// A child's vital signs: shared, so that they can be read beside the parent too.
    pub fn vitals(&self, child: &W::Id) -> Option<Arc<Vitals>> {
        self.cells.get(child).map(|cell| cell.vitals.clone())
    }

    /// Ends a child at once; it is forgotten.
    pub fn dismiss(&mut self, child: &W::Id) {
        if let Some(cell) = self.cells.remove(child) {
            cell.vitals.over(ChildState::Ended);
        }
    }

    /// Ends the present life of a child as if it had failed: it will be started again.
    pub fn restart(&mut self, child: &W::Id) {
        if let Some((_, abort)) = self.cells.get(child).and_then(|cell| cell.life.as_ref()) {
            abort.abort();
        }
    }

    /// Lets a child flush and end, within `limit`. It stays a child until it is over.
    pub fn retire(&mut self, child: &W::Id, limit: Duration) -> impl Future<Output = Retirement> + use<W>
    where
        W: Handler<Retire>,
    {
        let life = self.cells.get_mut(child).and_then(|cell| {
            cell.leaving = true;
            cell.life.clone()
        });
        if life.is_none() {
            self.dismiss(child);
        }
        async move {
            match life {
                Some((addr, abort)) => retire(addr, abort, limit).await,
                None => Retirement::Over,
            }
        }
    }

    fn ended(&mut self, ended: &Ended<W>) -> Option<Loss> {
        let cell = self.cells.get_mut(&ended.child).filter(|cell| cell.number == ended.life)?;
        cell.life = None;
        let ending = ended.ending.clone();
        if cell.leaving || ending == Ending::Finished {
            self.dismiss(&ended.child);
            return Some(Loss::Finished);
        }
        if ending != Ending::Killed {
            cell.vitals.failed(ending.to_string());
        }
        let now = Instant::now();
        cell.restarts.retain(|at| now.duration_since(*at) < self.policy.window);
        let recent = cell.restarts.len();
        if recent >= self.policy.restarts_max {
            error!(self.log, "gave up restarting an actor"; "kind" => W::KIND, "child" => ?ended.child,
                "restarts" => recent, "ending" => %ending);
            cell.vitals.over(ChildState::GivenUp);
            return Some(Loss::GaveUp { ending });
        }
        cell.restarts.push(now);
        cell.vitals.waits();
        let pause = self.policy.backoff(recent);
        warn!(self.log, "an actor ended and is started again"; "kind" => W::KIND, "child" => ?ended.child,
            "ending" => %ending, "pause_ms" => pause.as_millis() as u64);
        self.due.insert((now + pause, ended.child.clone()));
        Some(Loss::Restarting { ending, pause })
    }

    /// The children whose time has come, at most a lot of them.
    fn take_due(&mut self) -> Vec<W::Id> {
        let (now, mut lot) = (Instant::now(), Vec::new());
        while lot.len() < self.policy.starts_max && self.due.first().is_some_and(|(at, _)| *at <= now) {
            lot.extend(self.due.pop_first().map(|(_, child)| child));
        }
        lot
    }

    /// Aborts the children that stand still. A child that blocks its thread cannot be ended this way: it still lives at the
    /// next look, and is given out once. Where the parent itself was held up, its children may have been as well: they are
    /// given their time anew.
    fn abort_what_stalls(&mut self) -> Vec<W::Id> {
        let (now, mut blocked) = (Instant::now(), Vec::new());
        if now.duration_since(std::mem::replace(&mut self.looked, now)) > self.policy.stall_max / 2 {
            self.cells.values_mut().for_each(|cell| cell.seen.1 = now);
            return blocked;
        }
        for (child, cell) in &mut self.cells {
            let Some((_, abort)) = &cell.life else { continue };
            let progress = cell.vitals.progress();
            if cell.aborted {
                if !std::mem::replace(&mut cell.blocked, true) {
                    error!(self.log, "an actor blocks its thread"; "kind" => W::KIND, "child" => ?child);
                    blocked.push(child.clone());
                }
            } else if progress != cell.seen.0 {
                cell.seen = (progress, now);
            } else if now.duration_since(cell.seen.1) > self.policy.stall_max {
                let why = format!("it made no progress for {:?} and was aborted", self.policy.stall_max);
                error!(self.log, "an actor stands still"; "kind" => W::KIND, "child" => ?child, "why" => &why);
                cell.vitals.failed(why);
                cell.aborted = true;
                abort.abort();
            }
        }
        blocked
    }
}

/// Sets a parent's warden going. Call it in `started`.
pub fn attend<P: Parent<W>, W: Ward>(parent: &mut P, ctx: &mut Context<P>) {
    let interval = parent.warden().policy.stall_max / 4;
    ctx.run_interval(interval, |parent, ctx| {
        for child in <P as Parent<W>>::warden(parent).abort_what_stalls() {
            <P as Parent<W>>::child_blocked(parent, &child, ctx);
        }
    });
    schedule::<P, W>(parent, ctx);
}

impl<W: Ward> Warden<W> {
    /// Adds a child and starts its first life. One that is there already keeps its life and gets the spec.
    pub fn admit<P: Parent<W>>(parent: &mut P, child: W::Id, spec: W::Spec, ctx: &mut Context<P>) {
        let warden = parent.warden();
        if let Some(cell) = warden.cells.get_mut(&child) {
            cell.spec = spec;
            return;
        }
        let cell = Cell {
            spec,
            incarnation: 0,
            number: 0,
            life: None,
            restarts: Vec::new(),
            vitals: Arc::default(),
            seen: (0, Instant::now()),
            aborted: false,
            blocked: false,
            leaving: false,
        };
        warden.cells.insert(child.clone(), cell);
        start_child::<P, W>(parent, &child, ctx);
    }

    /// Starts a child again that was given up, with a clean slate.
    pub fn resume<P: Parent<W>>(parent: &mut P, child: &W::Id, ctx: &mut Context<P>) {
        let Some(cell) = parent.warden().cells.get_mut(child).filter(|cell| cell.life.is_none()) else { return };
        cell.restarts.clear();
        start_child::<P, W>(parent, child, ctx);
    }
}

/// Carries out what follows from the end of a life. The whole body of a parent's `Handler<Ended<W>>`.
pub fn on_ended<P: Parent<W>, W: Ward>(parent: &mut P, ended: &Ended<W>, ctx: &mut Context<P>) {
    if let Some(loss) = parent.warden().ended(ended) {
        schedule::<P, W>(parent, ctx);
        parent.child_lost(&ended.child, loss, ctx);
    }
}

fn start_child<P: Parent<W>, W: Ward>(parent: &mut P, child: &W::Id, ctx: &mut Context<P>) {
    let warden = parent.warden();
    let Some(cell) = warden.cells.get_mut(child) else { return };
    cell.incarnation += 1;
    warden.begun += 1;
    cell.number = warden.begun;
    let (incarnation, number) = (cell.incarnation, cell.number);
    let Some(arbiter) = warden.placement.choose(child) else {
        let ended = Ended { child: child.clone(), life: number, ending: Ending::ArbiterLost };
        return on_ended::<P, W>(parent, &ended, ctx);
    };
    cell.seen = (cell.vitals.progress(), Instant::now());
    (cell.aborted, cell.blocked) = (false, false);
    cell.vitals.born(incarnation);
    let spec = cell.spec.clone();
    let life = Life::new(incarnation, cell.vitals.clone(), &warden.policy);
    // Weak: a child's watcher must not keep its parent's mailbox open.
    let home = ctx.address().downgrade();
    let name = child.clone();
    let tell = move |ending| {
        if let Some(home) = home.upgrade() {
            home.do_send(Ended { child: name, life: number, ending });
        }
    };
    let (addr, abort) = start_watched(&arbiter, move |ctx| W::revive(spec, life, ctx), tell);
    debug!(warden.log, "an actor was started"; "kind" => W::KIND, "child" => ?child, "incarnation" => incarnation);
    cell.life = Some((addr.clone(), abort));
    parent.child_born(child, addr, incarnation, ctx);
}

fn start_what_is_due<P: Parent<W>, W: Ward>(parent: &mut P, ctx: &mut Context<P>) {
    parent.warden().timer = None;
    for child in parent.warden().take_due() {
        if parent.warden().cells.get(&child).is_some_and(|cell| cell.life.is_none()) {
            start_child::<P, W>(parent, &child, ctx);
        }
    }
    schedule::<P, W>(parent, ctx);
}

/// Sets the one timer to the earliest start that is due.
fn schedule<P: Parent<W>, W: Ward>(parent: &mut P, ctx: &mut Context<P>) {
    let warden = parent.warden();
    let Some(at) = warden.due.first().map(|(at, _)| *at) else { return };
    if let Some(timer) = warden.timer.take() {
        ctx.cancel_future(timer);
    }
    let wait = at.saturating_duration_since(Instant::now()).max(match warden.due.len() > warden.policy.starts_max {
        true => warden.policy.starts_pause,
        false => Duration::ZERO,
    });
    let timer = ctx.run_later(wait, start_what_is_due::<P, W>);
    parent.warden().timer = Some(timer);
}
