//! Who is let in and who is not, over real sockets; messages over them; two ends at full speed.

use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use bytes::Bytes;
use rustls::{ClientConfig, ServerConfig};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio_rustls::{client, server};

use super::framed::framed;
use super::identity::{Facts, IdentityError};
use super::tls::{Secured, accept, accept_within, client_config, connect, secure, server_config};
use super::*;
use crate::ids::{MachineId, ProcessServerId, Timestamp};
use crate::protocol::{AgentMessage, FrameError, ServerMessage};

const DAY: i64 = 86_400_000_000;
const PROCESS_SERVER: Role = Role::ProcessServer(ProcessServerId([7; 16]));
const MACHINE: Role = Role::Machine(MachineId([8; 16]));

fn now() -> Timestamp {
    let since = SystemTime::now().duration_since(SystemTime::UNIX_EPOCH).expect("after 1970");
    Timestamp(since.as_micros() as i64)
}

fn authority() -> CertificateAuthority {
    CertificateAuthority::generate(now(), 365).expect("an authority")
}

fn shared(authority: &CertificateAuthority, role: Role) -> SharedIdentity {
    SharedIdentity::new(&authority.issue(role, &[], now(), 7).expect("an identity")).expect("a usable identity")
}

fn listen_as(authority: &CertificateAuthority, role: Role, auth: ClientAuth) -> Arc<ServerConfig> {
    server_config(&shared(authority, role), authority.certificate(), auth).expect("a server configuration")
}

fn connect_as(authority: &CertificateAuthority, role: Role, peers: Peers) -> Arc<ClientConfig> {
    let trust = Trust::Authority(authority.certificate().clone());
    client_config(Some(&shared(authority, role)), trust, peers).expect("a client configuration")
}

type Met =
    (Result<Secured<server::TlsStream<TcpStream>>, TlsFault>, Result<Secured<client::TlsStream<TcpStream>>, TlsFault>);

/// Lets two configurations meet over loopback. In TLS 1.3 a client learns that it is refused with its first read.
async fn meet(server: Arc<ServerConfig>, client: Arc<ClientConfig>) -> Met {
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound").to_string();
    let accepting = async {
        let (stream, _) = listener.accept().await.expect("a connection");
        let mut accepted = accept(stream, server).await;
        if let Ok(secured) = &mut accepted {
            secured.stream.write_all(b"!").await.expect("written");
        }
        accepted
    };
    let connecting = async {
        let mut secured = connect(&address, client).await?;
        let read = secured.stream.read_u8().await;
        read.map_err(|error| TlsFault::explain(&error))?;
        Ok(secured)
    };
    tokio::join!(accepting, connecting)
}

#[tokio::test]
async fn both_sides_learn_the_others_role_whatever_the_address_is() {
    let ours = authority();
    let (server, client) = meet(
        listen_as(&ours, PROCESS_SERVER, ClientAuth::Required),
        connect_as(&ours, MACHINE, Peers::Exactly(PROCESS_SERVER)),
    )
    .await;
    assert_eq!(server.expect("let in").peer, Some(MACHINE));
    assert_eq!(client.expect("believed").peer, Some(PROCESS_SERVER));
}

#[tokio::test]
async fn another_installations_certificate_is_refused_on_either_side() {
    let (ours, theirs) = (authority(), authority());
    let (server, client) = meet(
        listen_as(&ours, PROCESS_SERVER, ClientAuth::Required),
        connect_as(&theirs, MACHINE, Peers::AnyProcessServer),
    )
    .await;
    assert_eq!(client.err(), Some(TlsFault::ForeignAuthority));
    assert!(matches!(server, Err(TlsFault::Refused(_))), "{server:?}");

    // The agent trusts the server's installation, but its own certificate is from another one.
    let trust = Trust::Authority(ours.certificate().clone());
    let stranger = client_config(Some(&shared(&theirs, MACHINE)), trust, Peers::AnyProcessServer).expect("a client");
    let (server, client) = meet(listen_as(&ours, PROCESS_SERVER, ClientAuth::Required), stranger).await;
    assert_eq!(server.err(), Some(TlsFault::ForeignAuthority));
    let Err(TlsFault::Refused(why)) = client else { panic!("{client:?}") };
    assert!(why.contains("another Farshore installation"), "{why}");
}

#[tokio::test]
async fn a_peer_in_the_wrong_role_is_refused_and_named() {
    let ours = authority();
    let other = Role::ProcessServer(ProcessServerId([9; 16]));
    let (_, client) =
        meet(listen_as(&ours, PROCESS_SERVER, ClientAuth::Required), connect_as(&ours, MACHINE, Peers::Exactly(other)))
            .await;
    let expected = TlsFault::WrongRole { expected: other.to_string(), found: PROCESS_SERVER.to_string() };
    assert_eq!(client.err(), Some(expected));
    let (_, client) =
        meet(listen_as(&ours, PROCESS_SERVER, ClientAuth::Optional), connect_as(&ours, MACHINE, Peers::ConfigServer))
            .await;
    assert!(matches!(client, Err(TlsFault::WrongRole { .. })), "{client:?}");
}

#[tokio::test]
async fn a_machine_cannot_pose_as_a_server() {
    let ours = authority();
    let (_, client) = meet(
        listen_as(&ours, MACHINE, ClientAuth::Required),
        connect_as(&ours, Role::Operator, Peers::AnyProcessServer),
    )
    .await;
    assert!(matches!(client, Err(TlsFault::WrongRole { .. })), "{client:?}");
}

#[tokio::test]
async fn an_expired_certificate_is_refused_on_either_side() {
    let ours = authority();
    let old = |role| {
        let identity = ours.issue(role, &[], Timestamp(now().0 - 9 * DAY), 7).expect("an identity");
        SharedIdentity::new(&identity).expect("usable")
    };
    let server = server_config(&old(PROCESS_SERVER), ours.certificate(), ClientAuth::Required).expect("a server");
    let (_, client) = meet(server, connect_as(&ours, MACHINE, Peers::AnyProcessServer)).await;
    assert!(matches!(client, Err(TlsFault::OutOfTime(_))), "{client:?}");

    let trust = Trust::Authority(ours.certificate().clone());
    let client = client_config(Some(&old(MACHINE)), trust, Peers::AnyProcessServer).expect("a client");
    let (server, client) = meet(listen_as(&ours, PROCESS_SERVER, ClientAuth::Required), client).await;
    assert!(matches!(server, Err(TlsFault::OutOfTime(_))), "{server:?}");
    let Err(TlsFault::Refused(why)) = client else { panic!("{client:?}") };
    assert!(why.contains("expired"), "{why}");
}

#[tokio::test]
async fn one_who_is_not_enrolled_may_only_come_where_enrolling_is_possible() {
    let ours = authority();
    let newcomer = |trust| client_config(None, trust, Peers::ConfigServer).expect("a client");
    let pinned = || newcomer(Trust::Fingerprint(ours.fingerprint()));
    let (server, client) = meet(listen_as(&ours, Role::ConfigServer, ClientAuth::Optional), pinned()).await;
    assert_eq!(server.expect("let in").peer, None);
    assert_eq!(client.expect("believed").peer, Some(Role::ConfigServer));

    let (server, client) = meet(listen_as(&ours, Role::ConfigServer, ClientAuth::Required), pinned()).await;
    assert_eq!(server.err(), Some(TlsFault::NoCertificate));
    assert!(matches!(client, Err(TlsFault::Refused(_))), "{client:?}");
}

#[tokio::test]
async fn a_pinned_fingerprint_lets_only_that_authority_through() {
    let (ours, theirs) = (authority(), authority());
    let pinned = client_config(None, Trust::Fingerprint(ours.fingerprint()), Peers::ConfigServer).expect("a client");
    let (_, client) = meet(listen_as(&theirs, Role::ConfigServer, ClientAuth::Optional), pinned).await;
    let wrong = TlsFault::WrongFingerprint { expected: ours.fingerprint(), found: theirs.fingerprint() };
    assert_eq!(client.err(), Some(wrong));
}

#[tokio::test]
async fn a_stolen_authority_certificate_behind_another_leaf_is_refused() {
    let (ours, theirs) = (authority(), authority());
    let request = KeyRequest::generate().expect("a key");
    let leaf = theirs.sign(&request.request_pem, Role::ConfigServer, &[], now(), 7).expect("signed");
    let forged = Identity::from_pem(&leaf, ours.certificate_pem(), &request.key_pem).expect("readable");
    let shared = SharedIdentity::new(&forged).expect("key and leaf match");
    let server = server_config(&shared, ours.certificate(), ClientAuth::Optional).expect("a server");
    let pinned = client_config(None, Trust::Fingerprint(ours.fingerprint()), Peers::ConfigServer).expect("a client");
    let (_, client) = meet(server, pinned).await;
    assert_eq!(client.err(), Some(TlsFault::ForeignAuthority));
}

#[tokio::test]
async fn a_client_that_speaks_no_tls_or_nothing_at_all_is_closed_in_time() {
    let ours = authority();
    let config = listen_as(&ours, PROCESS_SERVER, ClientAuth::Required);
    let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback");
    let address = listener.local_addr().expect("bound");
    let mut client = TcpStream::connect(address).await.expect("connected");
    client.write_all(b"GET / HTTP/1.1\r\n\r\n").await.expect("written");
    let (stream, _) = listener.accept().await.expect("a connection");
    let fault = accept(stream, config.clone()).await.map(|_| ()).expect_err("no TLS");
    assert!(matches!(fault, TlsFault::NotTls(_)), "{fault}");

    let mut silent = TcpStream::connect(address).await.expect("connected");
    silent.write_all(&[0x16, 3, 1]).await.expect("written");
    let (stream, _) = listener.accept().await.expect("a connection");
    let fault = accept_within(Duration::from_millis(50), stream, config).await.map(|_| ()).expect_err("no handshake");
    assert_eq!(fault, TlsFault::Timeout);
    assert_eq!(silent.read(&mut [0; 64]).await.expect("closed"), 0, "the socket is not kept");
}

#[tokio::test]
async fn a_server_that_speaks_no_tls_is_named_as_such() {
    let ours = authority();
    let (near, mut far) = tokio::io::duplex(4096);
    far.write_all(b"SSH-2.0-OpenSSH_9.2\r\n").await.expect("written");
    let fault =
        secure(near, connect_as(&ours, MACHINE, Peers::AnyProcessServer)).await.map(|_| ()).expect_err("no TLS");
    assert!(matches!(fault, TlsFault::NotTls(_)), "{fault}");
}

#[tokio::test]
async fn a_renewed_identity_is_shown_from_the_next_connection_on() {
    let ours = authority();
    let identity = shared(&ours, PROCESS_SERVER);
    let config = server_config(&identity, ours.certificate(), ClientAuth::Required).expect("a server");
    let agent = connect_as(&ours, MACHINE, Peers::AnyProcessServer);
    let serial = |met: Met| met.1.expect("believed").certificate.expect("shown").serial;
    let before = serial(meet(config.clone(), agent.clone()).await);
    identity.replace(&ours.issue(PROCESS_SERVER, &[], now(), 7).expect("an identity")).expect("usable");
    assert_ne!(before, serial(meet(config, agent).await));
}

#[test]
fn an_authority_reads_back_and_signs_keys_but_never_names() {
    let ours = authority();
    let again = CertificateAuthority::from_pem(ours.certificate_pem(), &ours.key_pem()).expect("readable");
    assert_eq!(again.fingerprint(), ours.fingerprint());
    let request = KeyRequest::generate().expect("a key");
    let pem = again.sign(&request.request_pem, MACHINE, &["ignored.example".into()], now(), 7).expect("signed");
    let identity = Identity::from_pem(&pem, ours.certificate_pem(), &request.key_pem).expect("readable");
    assert_eq!(identity.role(), Ok(MACHINE));
    let facts = Facts::of(identity.certificate()).expect("readable");
    assert!(facts.valid_until.micros_since(facts.valid_from) >= 7 * DAY as u64);
    let other = authority();
    assert!(CertificateAuthority::from_pem(ours.certificate_pem(), &other.key_pem()).is_err(), "another key");
    assert!(matches!(Facts::of(ours.certificate()), Err(IdentityError::NoRole)));
}

#[test]
fn roles_and_fingerprints_read_back_and_nothing_else_does() {
    for role in [Role::ConfigServer, PROCESS_SERVER, MACHINE, Role::Operator] {
        assert_eq!(role.to_string().parse(), Ok(role));
    }
    for bad in
        ["", "farshore://", "farshore://machine", "farshore://machine/", "farshore://operator/x", "http://operator"]
    {
        assert!(bad.parse::<Role>().is_err(), "{bad}");
    }
    let fingerprint = authority().fingerprint();
    assert_eq!(fingerprint.to_string().parse(), Ok(fingerprint));
    assert_eq!(fingerprint.to_string().to_uppercase().parse(), Ok(fingerprint));
    for bad in ["", "00", "é", &"0".repeat(65), &"g".repeat(64)] {
        assert!(bad.parse::<Fingerprint>().is_err(), "{bad}");
    }
}

#[test]
fn hosts_stand_in_a_servers_certificate_only_where_they_are_hosts() {
    let ours = authority();
    let issue = |host: &str| ours.issue(Role::ConfigServer, &[host.to_owned()], now(), 7).map(|_| ());
    for good in ["farshore.example", "10.1.2.3", "fe80::1", "localhost"] {
        assert_eq!(issue(good), Ok(()), "{good}");
    }
    for bad in ["", "with space", "a/b", "é.example"] {
        assert_eq!(issue(bad), Err(IdentityError::BadHost(bad.to_owned())));
    }
}

#[tokio::test]
async fn messages_arrive_whole_over_any_stream_and_an_end_between_them_is_no_error() {
    let (near, far) = tokio::io::duplex(7);
    let ((_, mut out), (mut back, _)) = (framed(near), framed(far));
    let says = AgentMessage::Bye { reason: "x".repeat(500) };
    let writing = async {
        out.queue(&AgentMessage::Ping);
        out.send(&says).await.expect("sent");
        out.close().await.expect("closed");
    };
    let reading = async {
        let mut seen = Vec::new();
        while let Some(message) = back.read::<AgentMessage>().await.expect("whole") {
            seen.push(message);
        }
        seen
    };
    let ((), seen) = tokio::join!(writing, reading);
    assert_eq!(seen, [AgentMessage::Ping, says]);
}

#[tokio::test]
async fn garbage_a_cut_and_a_message_of_the_wrong_direction_each_have_their_error() {
    async fn read_of(bytes: &[u8]) -> Result<Option<AgentMessage>, LinkError> {
        FramedReader::new(bytes).read().await
    }
    use crate::protocol::Message;
    let good = AgentMessage::Ping.encode().concat();
    let wrong = ServerMessage::Pong.encode().concat();
    assert_eq!(read_of(&good).await, Ok(Some(AgentMessage::Ping)));
    assert_eq!(read_of(b"").await, Ok(None));
    assert_eq!(read_of(&good[..7]).await, Err(LinkError::Cut));
    assert_eq!(read_of(&wrong).await, Err(LinkError::Frame(FrameError::Kind { kind: 0x48 })));
    let garbage = read_of(&[0xff; 64]).await;
    assert!(matches!(garbage, Err(LinkError::Frame(FrameError::TooLong { .. }))), "{garbage:?}");
    let long = AgentMessage::Bye { reason: "x".repeat(100) }.encode().concat();
    let limited = FramedReader::with_limit(&long[..], 50).read::<AgentMessage>().await;
    assert!(matches!(limited, Err(LinkError::Frame(FrameError::TooLong { bytes: 102, max: 50 }))), "{limited:?}");
}

#[tokio::test]
async fn a_flush_that_is_dropped_half_way_goes_on_where_it_was() {
    let (near, far) = tokio::io::duplex(64);
    let ((_, mut out), (mut back, _)) = (framed(near), framed(far));
    let says = AgentMessage::Bye { reason: "y".repeat(1000) };
    out.queue(&says);
    assert!(tokio::time::timeout(Duration::from_millis(20), out.flush()).await.is_err(), "the stream is full");
    let (sent, read) = tokio::join!(out.flush(), back.read::<AgentMessage>());
    assert_eq!((sent, read), (Ok(()), Ok(Some(says))));
}

mod speed {
    use super::*;
    use crate::batch::{BATCH_PAYLOAD_BYTES_TARGET, Batch};
    use crate::digest::{DigestKey, digests};
    use crate::ids::{DiskNo, Epoch, IncarnationId, Lsn, TimelineId};
    use crate::protocol::{AgentEnd, AgentEvent, Hello, HelloKey, OpenLog, ServerEffect, ServerEnd};
    use crate::record::{DiskInfo, Record, RecordAt};
    use crate::section::SectionBuilder;
    use crate::vault::state::LogState;

    const TOTAL_BYTES: u64 = 64 << 20;
    const BATCHES: u64 = TOTAL_BYTES / BATCH_PAYLOAD_BYTES_TARGET as u64;
    const WINDOW: u64 = 8 << 20;

    fn hello() -> Hello {
        let disk = DiskInfo { disk: DiskNo(0), name: "disk".into(), size_bytes: 1 << 30, sector_bytes: 512 };
        Hello {
            version: 1,
            machine: MachineId([8; 16]),
            timeline: TimelineId([1; 8]),
            incarnation: IncarnationId([2; 16]),
            lineage: Vec::new(),
            trusted: true,
            reset: None,
            epoch_known: Epoch::ZERO,
            first_lsn: Lsn(1),
            data_key: HelloKey::new([0; 32]),
            agent: "test".into(),
            disks: vec![disk],
        }
    }

    fn batches() -> Vec<Batch> {
        let data = Bytes::from(vec![0x5a; BATCH_PAYLOAD_BYTES_TARGET]);
        let sums = digests(&DigestKey::new([0; 32]), 0, &data);
        let one = |lsn: u64| {
            let mut section = SectionBuilder::default();
            section.data(Lsn(lsn), 0, data.clone(), &sums);
            let sections = vec![(DiskNo(0), section.finish())];
            Batch { first: Lsn(lsn), last: Lsn(lsn), sections, records: Vec::new() }
        };
        (3..3 + BATCHES).map(one).collect()
    }

    fn beginning() -> Batch {
        let records = [
            Record::Incarnation { id: hello().incarnation, predecessor: None },
            Record::DiskAdded(hello().disks[0].clone()),
        ];
        let records = (1..).zip(records).map(|(lsn, record)| RecordAt { lsn: Lsn(lsn), record }).collect();
        Batch { first: Lsn(1), last: Lsn(2), sections: Vec::new(), records }
    }

    async fn agent(stream: client::TlsStream<TcpStream>) {
        let (mut incoming, mut out) = framed(stream);
        let mut end = AgentEnd::new(hello(), Lsn::ZERO);
        end.connected(Duration::ZERO);
        let mut waiting = Some(batches());
        loop {
            while let Some(message) = end.poll_send() {
                out.queue(&message);
                if out.is_full() {
                    out.flush().await.expect("sent");
                }
            }
            out.flush().await.expect("sent");
            let Some(message) = incoming.read().await.expect("whole") else { return };
            for event in end.received(message, Duration::ZERO) {
                match event {
                    AgentEvent::Accepted(_) => {
                        end.open_with(beginning());
                        waiting.take().into_iter().flatten().for_each(|batch| end.push(batch));
                    }
                    AgentEvent::Committed(_) if end.is_drained() => end.say_bye("done"),
                    AgentEvent::Committed(_) | AgentEvent::Durable(_) | AgentEvent::BeginningCommitted => {}
                    other => panic!("{other:?}"),
                }
            }
        }
    }

    async fn process_server(stream: server::TlsStream<TcpStream>) -> u64 {
        let (mut incoming, mut out) = framed(stream);
        let mut end = ServerEnd::new(hello().machine, Duration::ZERO);
        let mut taken = 0;
        while let Some(message) = incoming.read().await.expect("whole") {
            let mut effects = std::collections::VecDeque::from(end.received(message, Duration::ZERO));
            while let Some(effect) = effects.pop_front() {
                match effect {
                    ServerEffect::Compare { .. } => panic!("nobody asked"),
                    ServerEffect::Introduced(hello) => effects.extend(end.open(OpenLog {
                        timeline: hello.timeline,
                        epoch: Epoch(1),
                        session: 1,
                        log: LogState::default(),
                        durable: Lsn::ZERO,
                        committed: Lsn::ZERO,
                        window_bytes: WINDOW,
                    })),
                    ServerEffect::Accept(batch) => {
                        taken += batch.sections.iter().map(|(_, section)| section.len() as u64).sum::<u64>();
                        effects.extend(end.durable(batch.last));
                        effects.extend(end.committed(batch.last));
                    }
                    ServerEffect::Send(message) => out.queue(&message),
                    ServerEffect::Idle { .. } => {}
                    ServerEffect::Close(_) => {
                        out.close().await.expect("closed");
                        return taken;
                    }
                }
            }
            out.flush().await.expect("sent");
        }
        taken
    }

    #[tokio::test(flavor = "multi_thread", worker_threads = 2)]
    async fn two_ends_push_64_mib_over_tls_and_everything_is_committed() {
        let ours = authority();
        let (server, client) = meet(
            listen_as(&ours, PROCESS_SERVER, ClientAuth::Required),
            connect_as(&ours, MACHINE, Peers::AnyProcessServer),
        )
        .await;
        let (server, client) = (server.expect("let in").stream, client.expect("believed").stream);
        let started = Instant::now();
        let serving = tokio::spawn(process_server(server));
        tokio::time::timeout(Duration::from_secs(120), agent(client)).await.expect("in time");
        let taken = serving.await.expect("no panic");
        let seconds = started.elapsed().as_secs_f64();
        println!("64 MiB of batches over TLS on loopback: {:.0} MB/s", TOTAL_BYTES as f64 / 1e6 / seconds);
        assert!(taken >= TOTAL_BYTES);
    }
}
