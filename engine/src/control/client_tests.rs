use std::collections::VecDeque;

use async_trait::async_trait;
use parking_lot::Mutex;

use super::*;

/// A server's end: what it hears, and the means to speak.
type ServerEnd = (mpsc::UnboundedReceiver<FromMember>, mpsc::UnboundedSender<ToMember>);

struct Wire {
    up: mpsc::UnboundedSender<FromMember>,
    down: mpsc::UnboundedReceiver<ToMember>,
}

#[async_trait]
impl Link for Wire {
    async fn say(&mut self, message: &FromMember) -> Result<(), LinkError> {
        self.up.send(message.clone()).map_err(|_| LinkError::Broken("gone".into()))
    }

    async fn hear(&mut self) -> Result<Option<ToMember>, LinkError> {
        Ok(self.down.recv().await)
    }
}

/// Servers by address; an address with none answers nothing.
#[derive(Default)]
struct Switchboard {
    taken: Mutex<Vec<String>>,
    waiting: Mutex<VecDeque<(String, Wire)>>,
}

impl Switchboard {
    fn server(&self, address: &str) -> ServerEnd {
        let (up, heard) = mpsc::unbounded_channel();
        let (say, down) = mpsc::unbounded_channel();
        self.waiting.lock().push_back((address.into(), Wire { up, down }));
        (heard, say)
    }
}

#[async_trait]
impl Connect for Switchboard {
    async fn connect(&self, address: &str) -> Result<Box<dyn Link>, LinkError> {
        self.taken.lock().push(address.into());
        let mut waiting = self.waiting.lock();
        match waiting.iter().position(|(at, _)| at == address).and_then(|at| waiting.remove(at)) {
            Some((_, wire)) => Ok(Box::new(wire)),
            None => Err(LinkError::Unreachable { address: address.into(), cause: "nobody".into() }),
        }
    }
}

struct Fixed;

impl Chance for Fixed {
    fn fill(&mut self, bytes: &mut [u8]) {
        bytes.fill(7);
    }
}

fn hello() -> Hello {
    Hello { version: 1, life: 1, program_version: "t".into(), replication_addresses: vec![], disks: vec![] }
}

fn welcome(addresses: &[&str]) -> ToMember {
    ToMember::Welcome(Welcome {
        control_addresses: addresses.iter().map(|a| (*a).to_owned()).collect(),
        mark_interval_ms: 1000,
        seal_interval_ms: 2000,
        resyncs: 0,
    })
}

fn begin(board: &Arc<Switchboard>, addresses: &[&str]) -> (SessionHandle, mpsc::Receiver<SessionEvent>) {
    let addresses = addresses.iter().map(|a| (*a).to_owned()).collect();
    let (handle, events, driver) =
        session(board.clone(), addresses, Arc::new(hello), SessionTimes::default(), Box::new(Fixed));
    tokio::spawn(driver.run());
    (handle, events)
}

#[tokio::test(flavor = "current_thread")]
async fn a_session_comes_back_at_the_next_address_after_it_is_lost() {
    tokio::time::pause();
    let board = Arc::new(Switchboard::default());
    let (mut heard, say) = board.server("b:1");
    let (handle, mut events) = begin(&board, &["a:1", "b:1"]);
    say.send(welcome(&["c:1", "b:1"])).expect("sent");
    let Some(SessionEvent::Connected { address, .. }) = events.recv().await else { panic!("connected") };
    assert_eq!(address, "b:1");
    assert_eq!(heard.recv().await, Some(FromMember::Hello(hello())));
    handle.say(FromMember::Where).expect("the session is open");
    assert_eq!(heard.recv().await, Some(FromMember::Where));
    assert_eq!(handle.addresses(), ["c:1", "b:1"]);

    let (_heard, again) = board.server("c:1");
    again.send(welcome(&[])).expect("sent");
    drop(say);
    let Some(SessionEvent::Disconnected { .. }) = events.recv().await else { panic!("disconnected") };
    assert_eq!(handle.say(FromMember::Where), Err(NotConnected));
    let Some(SessionEvent::Connected { address, .. }) = events.recv().await else { panic!("connected again") };
    assert_eq!(address, "c:1", "the list that the server gave is used");
}

#[tokio::test(flavor = "current_thread")]
async fn a_silent_server_is_pinged_and_then_left() {
    tokio::time::pause();
    let board = Arc::new(Switchboard::default());
    let (mut heard, say) = board.server("a:1");
    let (_handle, mut events) = begin(&board, &["a:1"]);
    say.send(welcome(&[])).expect("sent");
    assert!(matches!(events.recv().await, Some(SessionEvent::Connected { .. })));
    heard.recv().await;
    let begun = Instant::now();
    assert_eq!(heard.recv().await, Some(FromMember::Ping));
    let Some(SessionEvent::Disconnected { error, .. }) = events.recv().await else { panic!("left") };
    assert!(error.to_string().contains("no answer within 10s"), "{error}");
    assert!(begun.elapsed() <= Duration::from_secs(11));
}

#[tokio::test(flavor = "current_thread")]
async fn a_member_that_reports_all_the_time_keeps_its_session_with_a_server_that_only_answers_pings() {
    tokio::time::pause();
    let board = Arc::new(Switchboard::default());
    let (mut heard, say) = board.server("a:1");
    let (handle, mut events) = begin(&board, &["a:1"]);
    say.send(welcome(&[])).expect("sent");
    assert!(matches!(events.recv().await, Some(SessionEvent::Connected { .. })));
    let mut pings = 0;
    for _ in 0..60 {
        handle.say(FromMember::Where).expect("the session is open");
        tokio::time::sleep(Duration::from_secs(1)).await;
        while let Ok(message) = heard.try_recv() {
            if message == FromMember::Ping {
                pings += 1;
                say.send(ToMember::Pong).expect("sent");
            }
        }
    }
    assert!(events.try_recv().is_err(), "the session was never lost");
    assert!((15..=21).contains(&pings), "one ping for three seconds of silence: {pings}");
}

#[tokio::test(flavor = "current_thread")]
async fn a_refused_session_is_tried_again_and_says_why() {
    tokio::time::pause();
    let board = Arc::new(Switchboard::default());
    let (_heard, say) = board.server("a:1");
    let (handle, mut events) = begin(&board, &["a:1"]);
    say.send(ToMember::Refused(Refusal::new(RefusalCode::MemberRemoved, "removed", "enrol again"))).expect("sent");
    let Some(SessionEvent::Disconnected { error: LinkError::Refused(refusal), .. }) = events.recv().await else {
        panic!("refused")
    };
    assert_eq!(refusal.code, RefusalCode::MemberRemoved);
    assert!(matches!(events.recv().await, Some(SessionEvent::Disconnected { .. })), "tried again");
    drop(handle);
    while events.recv().await.is_some() {}
    assert!(board.taken.lock().len() >= 2);
}

fn enrolment() -> Enrol {
    Enrol {
        version: 1,
        token: crate::control::messages::JoinSecret::new("t"),
        csr_pem: String::new(),
        role: crate::control::messages::MemberRole::Machine,
        name: "db 1".into(),
        disks: vec![],
        replication_addresses: vec![],
        program_version: "t".into(),
    }
}

#[tokio::test(flavor = "current_thread")]
async fn enrolment_passes_over_dead_addresses_and_stops_at_a_refusal() {
    tokio::time::pause();
    let board = Switchboard::default();
    let (_heard, say) = board.server("b:1");
    let (_other, _kept) = board.server("c:1");
    say.send(ToMember::Refused(Refusal::new(RefusalCode::TokenExpired, "expired", "ask for another"))).expect("sent");
    let addresses: Vec<String> = ["a:1", "b:1", "c:1"].map(String::from).into();
    let error = enrol(&board, &addresses, enrolment(), Duration::from_secs(1)).await.expect_err("refused");
    assert!(matches!(error, LinkError::Refused(ref refusal) if refusal.code == RefusalCode::TokenExpired), "{error}");
    assert_eq!(*board.taken.lock(), ["a:1", "b:1"]);
}
