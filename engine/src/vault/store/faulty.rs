//! A store that fails on purpose, by value: wraps any other and does what a plan says. Every fault is one that object
//! stores have: an error before or after the effect (a lost answer is the latter), an answer that comes late, staged
//! bytes that get lost, a list that does not know the newest objects yet.

use std::collections::{HashMap, VecDeque};
use std::fmt;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use async_trait::async_trait;
use bytes::Bytes;
use parking_lot::Mutex;
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};

use super::{
    ETag, Listed, ObjectMeta, ObjectName, ObjectStore, PutOutcome, Staged, StoreError, StoreErrorKind, SwapOutcome,
};
use crate::ids::MachineId;

/// A call of the port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StoreCall {
    /// `stage`
    Stage,
    /// `publish`
    Publish,
    /// `put_if_match`
    Swap,
    /// `get`
    Get,
    /// `get_range`
    GetRange,
    /// `head`
    Head,
    /// `list`
    List,
    /// `delete`
    Delete,
}

/// Waits as long as the caller's clock (virtual or not) says.
pub type Delay = Arc<dyn Fn() -> Pin<Box<dyn Future<Output = ()> + Send>> + Send + Sync>;

/// What goes wrong with one call.
#[derive(Clone)]
pub enum Fault {
    /// The call fails and nothing happened.
    ErrorBefore(StoreErrorKind),
    /// The call fails, but its effect took place: the answer was lost.
    ErrorAfter(StoreErrorKind),
    /// The call takes this long, then does what it should.
    Slow(Delay),
    /// `stage` says all is well but the bytes are not whole: `publish` then fails as if nothing had been staged.
    TornStaging,
    /// `list` does not show objects that were created since the last list without this fault. Others ignore it.
    StaleList,
}

impl fmt::Debug for Fault {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::ErrorBefore(kind) => write!(f, "ErrorBefore({kind:?})"),
            Self::ErrorAfter(kind) => write!(f, "ErrorAfter({kind:?})"),
            Self::Slow(_) => f.write_str("Slow"),
            Self::TornStaging => f.write_str("TornStaging"),
            Self::StaleList => f.write_str("StaleList"),
        }
    }
}

/// Which calls a scripted fault is for.
#[derive(Debug, Clone)]
pub struct Aim {
    /// The call.
    pub call: StoreCall,
    /// Part of the object's name; empty for all.
    pub name_part: String,
    /// How many such calls go well before.
    pub after_calls: u64,
    /// How many such calls have the fault then; `u64::MAX` for all.
    pub times: u64,
}

impl Aim {
    /// The next such call.
    pub fn next(call: StoreCall) -> Self {
        Self { call, name_part: String::new(), after_calls: 0, times: 1 }
    }

    /// All such calls.
    pub fn all(call: StoreCall) -> Self {
        Self { times: u64::MAX, ..Self::next(call) }
    }
}

/// How likely a call of a kind has a fault.
pub type FaultRate = (StoreCall, f64, Fault);

/// Which faults happen.
#[derive(Debug, Default)]
pub struct FaultPlan {
    script: VecDeque<(Aim, Fault)>,
    seeded: Option<(StdRng, Vec<FaultRate>)>,
}

impl FaultPlan {
    /// Nothing goes wrong.
    pub fn none() -> Self {
        Self::default()
    }

    /// Adds a fault for certain calls. The first in order that fits a call is the one it has.
    #[must_use]
    pub fn and(mut self, aim: Aim, fault: Fault) -> Self {
        self.script.push_back((aim, fault));
        self
    }

    /// Beside the script, each call has each fault that is for it with the given probability.
    #[must_use]
    pub fn seeded(mut self, seed: u64, rates: Vec<FaultRate>) -> Self {
        self.seeded = Some((StdRng::seed_from_u64(seed), rates));
        self
    }

    fn fault(&mut self, call: StoreCall, name: &str) -> Option<Fault> {
        for (aim, fault) in &mut self.script {
            if aim.call != call || !name.contains(&aim.name_part) || aim.times == 0 {
                continue;
            }
            if aim.after_calls > 0 {
                aim.after_calls -= 1;
                continue;
            }
            aim.times = if aim.times == u64::MAX { u64::MAX } else { aim.times - 1 };
            return Some(fault.clone());
        }
        let (chance, rates) = self.seeded.as_mut()?;
        let mut hit = None;
        for (_, rate, fault) in rates.iter().filter(|(of, ..)| *of == call) {
            // Every rate draws, whether or not one hit before: a plan's draws do not shift with its outcomes.
            hit = hit.or(chance.random_bool(*rate).then(|| fault.clone()));
        }
        hit
    }
}

/// Wraps a store and makes it fail.
pub struct FaultyStore {
    inner: Arc<dyn ObjectStore>,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    plan: FaultPlan,
    calls: HashMap<StoreCall, u64>,
    faults: u64,
    torn: Vec<(ObjectName, String)>,
    fresh: Vec<ObjectName>,
}

impl FaultyStore {
    /// A store that does what `inner` does, but for the plan.
    pub fn new(inner: Arc<dyn ObjectStore>, plan: FaultPlan) -> Self {
        Self { inner, state: Mutex::new(State { plan, ..State::default() }) }
    }

    /// Another plan from here on.
    pub fn set_plan(&self, plan: FaultPlan) {
        self.state.lock().plan = plan;
    }

    /// How often a call was made.
    pub fn calls(&self, call: StoreCall) -> u64 {
        self.state.lock().calls.get(&call).copied().unwrap_or(0)
    }

    /// How many faults there were.
    pub fn faults(&self) -> u64 {
        self.state.lock().faults
    }

    fn fault(&self, call: StoreCall, name: &str) -> Option<Fault> {
        let mut state = self.state.lock();
        *state.calls.entry(call).or_default() += 1;
        let fault = state.plan.fault(call, name);
        state.faults += u64::from(fault.is_some());
        fault
    }

    /// Draws the fault of a call and makes the call with it.
    async fn call<T>(
        &self,
        call: StoreCall,
        name: &str,
        effect: impl Future<Output = Result<T, StoreError>> + Send,
    ) -> Result<T, StoreError> {
        let fault = self.fault(call, name);
        perform(fault.as_ref(), call, name, effect).await
    }
}

/// Makes a call with its fault.
async fn perform<T>(
    fault: Option<&Fault>,
    call: StoreCall,
    name: &str,
    effect: impl Future<Output = Result<T, StoreError>> + Send,
) -> Result<T, StoreError> {
    let failed = |kind| StoreError { kind, doing: format!("{call:?} {name}"), cause: "as planned".into() };
    match fault {
        Some(Fault::ErrorBefore(kind)) => Err(failed(*kind)),
        Some(Fault::ErrorAfter(kind)) => {
            effect.await?;
            Err(failed(*kind))
        }
        Some(Fault::Slow(delay)) => {
            delay().await;
            effect.await
        }
        Some(Fault::TornStaging | Fault::StaleList) | None => effect.await,
    }
}

#[async_trait]
impl ObjectStore for FaultyStore {
    async fn stage(&self, name: &ObjectName, token: &str, parts: Vec<Bytes>) -> Result<Staged, StoreError> {
        let fault = self.fault(StoreCall::Stage, name.as_str());
        let effect = self.inner.stage(name, token, parts);
        let staged = perform(fault.as_ref(), StoreCall::Stage, name.as_str(), effect).await?;
        if matches!(fault, Some(Fault::TornStaging)) {
            self.state.lock().torn.push((name.clone(), staged.token.clone()));
        }
        Ok(staged)
    }

    async fn publish(&self, staged: &Staged) -> Result<PutOutcome, StoreError> {
        let torn = (staged.name.clone(), staged.token.clone());
        let effect = async {
            if self.state.lock().torn.contains(&torn) {
                let doing = format!("publish {}", staged.name);
                return Err(StoreError { kind: StoreErrorKind::Refused, doing, cause: "staged bytes are gone".into() });
            }
            let outcome = self.inner.publish(staged).await?;
            self.state.lock().fresh.push(staged.name.clone());
            Ok(outcome)
        };
        self.call(StoreCall::Publish, staged.name.as_str(), effect).await
    }

    async fn put_if_match(
        &self,
        name: &ObjectName,
        expected: Option<&ETag>,
        bytes: Bytes,
    ) -> Result<SwapOutcome, StoreError> {
        self.call(StoreCall::Swap, name.as_str(), self.inner.put_if_match(name, expected, bytes)).await
    }

    async fn get(&self, name: &ObjectName) -> Result<(Bytes, ETag), StoreError> {
        self.call(StoreCall::Get, name.as_str(), self.inner.get(name)).await
    }

    async fn get_range(&self, name: &ObjectName, offset: u64, len: u64) -> Result<Bytes, StoreError> {
        self.call(StoreCall::GetRange, name.as_str(), self.inner.get_range(name, offset, len)).await
    }

    async fn head(&self, name: &ObjectName) -> Result<ObjectMeta, StoreError> {
        self.call(StoreCall::Head, name.as_str(), self.inner.head(name)).await
    }

    async fn list(&self, prefix: &str, after: Option<&ObjectName>, limit: usize) -> Result<Vec<Listed>, StoreError> {
        let fault = self.fault(StoreCall::List, prefix);
        let effect = self.inner.list(prefix, after, limit);
        let mut listed = perform(fault.as_ref(), StoreCall::List, prefix, effect).await?;
        let mut state = self.state.lock();
        match fault {
            Some(Fault::StaleList) => listed.retain(|listed| !state.fresh.contains(&listed.name)),
            _ => state.fresh.clear(),
        }
        Ok(listed)
    }

    fn wanted_for(&self, machine: MachineId, span: Duration) {
        self.inner.wanted_for(machine, span);
    }

    async fn delete(&self, name: &ObjectName) -> Result<(), StoreError> {
        self.call(StoreCall::Delete, name.as_str(), self.inner.delete(name)).await
    }
}

#[cfg(test)]
mod tests {
    use super::super::memory::MemoryStore;
    use super::*;
    use crate::vault::store::conformance;

    fn name(n: u64) -> ObjectName {
        ObjectName::keys(n)
    }

    fn store(plan: FaultPlan) -> FaultyStore {
        FaultyStore::new(Arc::new(MemoryStore::new()), plan)
    }

    #[tokio::test]
    async fn without_a_plan_it_is_a_store_like_any_other() {
        conformance::run(&store(FaultPlan::none())).await;
    }

    #[tokio::test]
    async fn a_lost_answer_leaves_the_effect_and_an_error_before_does_not() {
        let kind = StoreErrorKind::Unavailable;
        let aim = |part: &str| Aim { name_part: part.into(), ..Aim::next(StoreCall::Publish) };
        let plan = FaultPlan::none().and(aim("1"), Fault::ErrorBefore(kind)).and(aim("2"), Fault::ErrorAfter(kind));
        let store = store(plan);
        for (n, there) in [(1, false), (2, true)] {
            assert!(store.put_if_absent(&name(n), "a", Bytes::from_static(b"x")).await.is_err());
            assert_eq!(store.get(&name(n)).await.is_ok(), there);
        }
        store.put_if_absent(&name(1), "a", Bytes::from_static(b"x")).await.expect("the script is through");
        assert_eq!((store.faults(), store.calls(StoreCall::Publish)), (2, 3));
    }

    #[tokio::test]
    async fn torn_staging_is_noticed_when_published_and_a_stale_list_forgets_what_is_new() {
        let plan = FaultPlan::none()
            .and(Aim::next(StoreCall::Stage), Fault::TornStaging)
            .and(Aim::next(StoreCall::List), Fault::StaleList);
        let store = store(plan);
        let staged = store.stage(&name(1), "a", vec![Bytes::from_static(b"x")]).await.expect("says all is well");
        assert!(store.publish(&staged).await.is_err());
        store.put_if_absent(&name(2), "a", Bytes::from_static(b"x")).await.expect("well");
        assert_eq!(store.list("", None, 9).await.expect("stale"), []);
        assert_eq!(store.list("", None, 9).await.expect("fresh").len(), 1);
    }

    #[tokio::test]
    async fn a_seed_gives_the_same_faults_again() {
        let run = |seed| async move {
            let rates = vec![(StoreCall::Head, 0.3, Fault::ErrorBefore(StoreErrorKind::Unavailable))];
            let store = store(FaultPlan::none().seeded(seed, rates));
            let mut kinds = Vec::new();
            for _ in 0..50 {
                kinds.push(store.head(&name(1)).await.expect_err("it is not there").kind);
            }
            kinds
        };
        let (one, again, other) = (run(1).await, run(1).await, run(2).await);
        assert_eq!(one, again);
        assert_ne!(one, other);
    }
}
