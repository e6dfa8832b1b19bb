//! A member's side of the control protocol: enrolment, and one session that comes back by itself.
//!
//! ```text
//!            next address, backoff after each round
//!        ┌───────────────────────────────────────────┐
//!        ▼                                           │
//!   connecting ──Hello──► waiting ──Welcome──► open ─┴ closed, silent, broken
//!        ▲                   │ Refused
//!        └── slow backoff ◄──┘
//! ```
//!
//! The caller spawns [`SessionDriver::run`] where its tasks live and reads [`SessionEvent`]s; it ends when the handle is
//! dropped or the events are no longer read. Nothing is kept for a session that is not open: [`SessionHandle::say`]
//! fails then, and the caller says it again after the next `Connected`.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, timeout};

use super::backoff::Backoff;
use super::link::{Connect, Link, LinkError};
use super::messages::{Enrol, Enrolled, FromMember, Hello, Refusal, RefusalCode, ToMember, Welcome};
use crate::ids::Chance;

/// Messages that wait to be sent; a session that has more of them is as good as gone.
const OUTBOUND_MAX: usize = 256;
/// Events that wait to be read.
const EVENTS_MAX: usize = 256;

/// Times of a session.
#[derive(Debug, Clone)]
pub struct SessionTimes {
    /// Longest that connecting, and the answer to the first message, may take.
    pub connect_within: Duration,
    /// A ping goes out when nothing was heard for so long.
    pub ping_every: Duration,
    /// A server that says nothing for so long is gone.
    pub silence_max: Duration,
    /// First wait after all addresses failed.
    pub backoff_min: Duration,
    /// Longest wait.
    pub backoff_max: Duration,
}

impl Default for SessionTimes {
    fn default() -> Self {
        Self {
            connect_within: Duration::from_secs(5),
            ping_every: Duration::from_secs(3),
            silence_max: Duration::from_secs(10),
            backoff_min: Duration::from_millis(200),
            backoff_max: Duration::from_secs(10),
        }
    }
}

/// What the caller hears of its session.
#[derive(Debug)]
pub enum SessionEvent {
    /// The session is open.
    Connected {
        /// With the server at this address.
        address: String,
        /// What it said.
        welcome: Welcome,
    },
    /// The server said something.
    Message(ToMember),
    /// The session is not open, or not any more; the next try comes by itself.
    Disconnected {
        /// Why.
        error: LinkError,
        /// How long until the next try.
        retry_in: Duration,
    },
}

/// The session is not open.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("no control session is open; the next try comes by itself")]
pub struct NotConnected;

/// Speaks over the session. Dropping every clone ends it.
#[derive(Clone)]
pub struct SessionHandle {
    outbound: mpsc::Sender<FromMember>,
    addresses: watch::Receiver<Vec<String>>,
    open: watch::Receiver<bool>,
}

impl SessionHandle {
    /// Sends a message if the session is open. It may still be lost with the connection.
    pub fn say(&self, message: FromMember) -> Result<(), NotConnected> {
        if !*self.open.borrow() {
            return Err(NotConnected);
        }
        self.outbound.try_send(message).map_err(|_| NotConnected)
    }

    /// Is it open?
    pub fn is_open(&self) -> bool {
        *self.open.borrow()
    }

    /// The configuration server's addresses as last told: to be written down for the next start.
    pub fn addresses(&self) -> Vec<String> {
        self.addresses.borrow().clone()
    }
}

/// Runs a session.
pub struct SessionDriver {
    connect: Arc<dyn Connect>,
    hello: Arc<dyn Fn() -> Hello + Send + Sync>,
    times: SessionTimes,
    chance: Box<dyn Chance>,
    addresses: watch::Sender<Vec<String>>,
    open: watch::Sender<bool>,
    outbound: mpsc::Receiver<FromMember>,
    events: mpsc::Sender<SessionEvent>,
}

/// Makes a session: `addresses` are tried in order, `hello` is asked for at each try.
pub fn session(
    connect: Arc<dyn Connect>,
    addresses: Vec<String>,
    hello: Arc<dyn Fn() -> Hello + Send + Sync>,
    times: SessionTimes,
    chance: Box<dyn Chance>,
) -> (SessionHandle, mpsc::Receiver<SessionEvent>, SessionDriver) {
    let (say, outbound) = mpsc::channel(OUTBOUND_MAX);
    let (events, heard) = mpsc::channel(EVENTS_MAX);
    let (addresses, addresses_seen) = watch::channel(addresses);
    let (open, open_seen) = watch::channel(false);
    let handle = SessionHandle { outbound: say, addresses: addresses_seen, open: open_seen };
    (handle, heard, SessionDriver { connect, hello, times, chance, addresses, open, outbound, events })
}

/// Why a session is over.
enum Over {
    /// The caller wants no more of it.
    Done,
    /// The connection is no longer there.
    Lost(LinkError),
}

impl SessionDriver {
    /// Keeps a session open until the caller lets go.
    pub async fn run(mut self) {
        let mut backoff = Backoff::new(self.times.backoff_min, self.times.backoff_max);
        loop {
            let addresses = self.addresses.borrow().clone();
            let mut error = LinkError::Broken("no address of a configuration server is known".into());
            for address in addresses {
                match self.one_session(&address, &mut backoff).await {
                    Over::Done => return,
                    Over::Lost(why) => error = why,
                }
            }
            if !self.rest(error, &mut backoff).await {
                return;
            }
        }
    }

    /// Tells the caller and waits; `false`: the caller wants no more.
    async fn rest(&mut self, error: LinkError, backoff: &mut Backoff) -> bool {
        let retry_in = backoff.next(&mut *self.chance);
        if self.events.send(SessionEvent::Disconnected { error, retry_in }).await.is_err() {
            return false;
        }
        let until = Instant::now() + retry_in;
        // What was said into a session that is no more is dropped: it was about a moment that is over.
        while let Ok(said) = tokio::time::timeout_at(until, self.outbound.recv()).await {
            if said.is_none() {
                return false;
            }
        }
        true
    }

    async fn one_session(&mut self, address: &str, backoff: &mut Backoff) -> Over {
        let opened = timeout(self.times.connect_within, self.open(address)).await;
        let (mut link, welcome) = match opened {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => return Over::Lost(error),
            Err(_) => return Over::Lost(silent(address, self.times.connect_within)),
        };
        backoff.reset();
        self.follow(&welcome);
        while self.outbound.try_recv().is_ok() {}
        self.open.send_replace(true);
        let connected = SessionEvent::Connected { address: address.into(), welcome };
        let over = match self.events.send(connected).await {
            Ok(()) => self.talk(&mut *link, address).await,
            Err(_) => Over::Done,
        };
        self.open.send_replace(false);
        over
    }

    fn follow(&self, welcome: &Welcome) {
        if !welcome.control_addresses.is_empty() {
            self.addresses.send_replace(welcome.control_addresses.clone());
        }
    }

    async fn open(&mut self, address: &str) -> Result<(Box<dyn Link>, Welcome), LinkError> {
        let mut link = self.connect.connect(address).await?;
        link.say(&FromMember::Hello((self.hello)())).await?;
        match link.hear().await? {
            Some(ToMember::Welcome(welcome)) => Ok((link, welcome)),
            Some(ToMember::Refused(refusal)) => Err(LinkError::Refused(refusal)),
            Some(_) => Err(LinkError::Broken("the server's first message is no welcome".into())),
            None => Err(LinkError::Broken("the server closed the connection before its welcome".into())),
        }
    }

    async fn talk(&mut self, link: &mut dyn Link, address: &str) -> Over {
        let mut heard_at = Instant::now();
        let mut pinged_at = heard_at;
        loop {
            // A ping is due by what was heard, never by what was said: a server has no answer to reports.
            let ping_at = heard_at.max(pinged_at) + self.times.ping_every;
            let wake = ping_at.min(heard_at + self.times.silence_max);
            let said = tokio::select! {
                heard = link.hear() => {
                    heard_at = Instant::now();
                    match self.take(heard).await {
                        Some(over) => return over,
                        None => continue,
                    }
                }
                said = self.outbound.recv() => match said {
                    Some(message) => message,
                    None => return Over::Done,
                },
                () = tokio::time::sleep_until(wake) => {
                    if heard_at.elapsed() >= self.times.silence_max {
                        return Over::Lost(silent(address, self.times.silence_max));
                    }
                    pinged_at = Instant::now();
                    FromMember::Ping
                }
            };
            match timeout(super::link::SAY_WITHIN, link.say(&said)).await {
                Ok(Ok(())) => {}
                Ok(Err(error)) => return Over::Lost(error),
                Err(_) => return Over::Lost(silent(address, super::link::SAY_WITHIN)),
            }
        }
    }

    /// Hands on what was heard; an answer: the session is over.
    async fn take(&mut self, heard: Result<Option<ToMember>, LinkError>) -> Option<Over> {
        match heard {
            Ok(Some(ToMember::Pong)) => None,
            Ok(Some(ToMember::Refused(refusal))) => Some(Over::Lost(LinkError::Refused(refusal))),
            Ok(Some(message)) => {
                if let ToMember::Welcome(welcome) = &message {
                    self.follow(welcome);
                }
                match self.events.send(SessionEvent::Message(message)).await {
                    Ok(()) => None,
                    Err(_) => Some(Over::Done),
                }
            }
            Ok(None) => Some(Over::Lost(LinkError::Broken("the server closed the connection".into()))),
            Err(error) => Some(Over::Lost(error)),
        }
    }
}

fn silent(address: &str, limit: Duration) -> LinkError {
    LinkError::Unreachable { address: address.into(), cause: format!("no answer within {limit:?}") }
}

/// Asks for membership at each of `addresses` in turn. `connect` must not present a certificate, and must pin the
/// installation's authority: a token shown to the wrong server is a token lost. A refusal is final.
pub async fn enrol(
    connect: &dyn Connect,
    addresses: &[String],
    request: Enrol,
    within: Duration,
) -> Result<Enrolled, LinkError> {
    let message = FromMember::Enrol(request);
    let mut last = LinkError::Broken("no address of a configuration server is given".into());
    for address in addresses {
        match timeout(within, enrol_at(connect, address, &message)).await {
            Ok(Ok(enrolled)) => return Ok(enrolled),
            Ok(Err(refused @ LinkError::Refused(_))) => return Err(refused),
            Ok(Err(error)) => last = error,
            Err(_) => last = silent(address, within),
        }
    }
    Err(last)
}

async fn enrol_at(connect: &dyn Connect, address: &str, message: &FromMember) -> Result<Enrolled, LinkError> {
    let mut link = connect.connect(address).await?;
    link.say(message).await?;
    match link.hear().await? {
        Some(ToMember::Enrolled(enrolled)) => Ok(enrolled),
        Some(ToMember::Refused(refusal)) => Err(LinkError::Refused(refusal)),
        Some(_) => Err(LinkError::Broken("the server answered something else".into())),
        None => Err(LinkError::Broken("the server closed the connection without an answer".into())),
    }
}

/// Whether a refusal can become a yes without anybody doing something.
pub fn may_pass_later(refusal: &Refusal) -> bool {
    matches!(
        refusal.code,
        RefusalCode::Busy
            | RefusalCode::NotConnected
            | RefusalCode::TimedOut
            | RefusalCode::VaultUnavailable
            | RefusalCode::VaultLocked
            | RefusalCode::Internal
    )
}

#[cfg(test)]
#[path = "client_tests.rs"]
mod tests;
