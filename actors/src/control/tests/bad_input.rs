use farshore_engine::control::link::Connect;
use farshore_engine::ids::Timestamp;
use farshore_engine::transport::{CertificateAuthority, Role};

use super::*;

fn refused(outcome: Result<Enrolled, LinkError>) -> RefusalCode {
    match outcome {
        Err(LinkError::Refused(refusal)) => {
            assert!(!refusal.remedy.is_empty(), "{refusal}");
            refusal.code
        }
        other => panic!("refused, not {other:?}"),
    }
}

#[actix::test]
async fn tokens_that_do_not_fit_are_refused_with_their_code() {
    let installation = Installation::start().await;
    let plane = installation.plane();
    let make = |role, seconds| {
        let plane = plane.clone();
        async move {
            plane.create_join_token(&operator(), role, "t".into(), Duration::from_secs(seconds), 1).await.expect("made")
        }
    };
    let key = KeyRequest::generate().expect("a key");
    let wrong_role = make(MemberRole::ProcessServer, 60).await;
    assert_eq!(refused(installation.enrol_with(&wrong_role, "m", &key).await), RefusalCode::TokenWrongRole);
    let short = make(MemberRole::Machine, 1).await;
    until("it has expired", || (wall_clock() > short.expires_at).then_some(())).await;
    assert_eq!(refused(installation.enrol_with(&short, "m", &key).await), RefusalCode::TokenExpired);
    let good = make(MemberRole::Machine, 60).await;
    let first = installation.enrol_with(&good, "m", &key).await.expect("enrolled");
    let again = installation.enrol_with(&good, "m", &key).await.expect("the same key gets the same papers");
    assert_eq!(first.machine, again.machine);
    let other = KeyRequest::generate().expect("a key");
    assert_eq!(refused(installation.enrol_with(&good, "m", &other).await), RefusalCode::TokenUsedUp);
    let unknown = JoinTicket { token: zeroize::Zeroizing::new("guess".into()), ..good };
    assert_eq!(refused(installation.enrol_with(&unknown, "m", &other).await), RefusalCode::TokenUnknown);
    assert_eq!(plane.machines(None, 10, true).items.len(), 1);
}

#[actix::test]
async fn enrolments_that_make_no_sense_are_refused_and_nothing_is_written() {
    let installation = Installation::start().await;
    let ticket = installation.ticket(MemberRole::Machine).await;
    let key = KeyRequest::generate().expect("a key");
    let good = enrolment(&ticket.token, "m", &key);
    let bad = [
        (Enrol { version: 99, ..good.clone() }, RefusalCode::VersionUnsupported),
        (Enrol { csr_pem: "no request".into(), ..good.clone() }, RefusalCode::Malformed),
        (Enrol { name: "two\nlines".into(), ..good.clone() }, RefusalCode::Malformed),
        (Enrol { disks: vec![good.disks[0].clone(), good.disks[0].clone()], ..good.clone() }, RefusalCode::Malformed),
    ];
    for (request, code) in bad {
        let connect =
            TlsConnect::to_enrol(ticket.authority_fingerprint.parse().expect("a fingerprint")).expect("client");
        assert_eq!(refused(enrol(&connect, &ticket.control_addresses, request, WITHIN).await), code);
    }
    assert!(installation.plane().machines(None, 10, true).items.is_empty());
    assert!(!installation.dir.path().join("vault/machines").exists(), "no key was written for nobody");
    let enrolled = installation.enrol_with(&ticket, "m", &key).await.expect("the token was not spent");
    assert!(enrolled.machine.is_some());
}

#[actix::test]
async fn a_server_with_another_authority_gets_no_token() {
    let installation = Installation::start().await;
    let other = Installation::start().await;
    let mut ticket = installation.ticket(MemberRole::Machine).await;
    ticket.authority_fingerprint = other.server().authority_fingerprint().to_string();
    let key = KeyRequest::generate().expect("a key");
    let outcome = installation.enrol_with(&ticket, "m", &key).await;
    assert!(matches!(outcome, Err(LinkError::Untrusted { .. })), "{outcome:?}");
}

#[actix::test]
async fn another_installation_s_certificate_opens_no_session() {
    let installation = Installation::start().await;
    let other = CertificateAuthority::generate(Timestamp(wall_clock().0), 10).expect("an authority");
    let theirs = other.issue(Role::Machine(MachineId([1; 16])), &[], wall_clock(), 10).expect("papers");
    // It believes our server, so that only our server's refusal is seen.
    let key = KeyRequest::generate().expect("a key");
    let pem = other.sign(&key.request_pem, Role::Machine(MachineId([1; 16])), &[], wall_clock(), 10).expect("signed");
    let mixed = Identity::from_pem(&pem, &installation.server().authority_pem(), &key.key_pem).expect("papers");
    for identity in [theirs, mixed] {
        let connect = TlsConnect::as_member(&identity).expect("a client");
        let outcome = async {
            let mut link = connect.connect(&installation.address.to_string()).await?;
            link.say(&FromMember::Ping).await?;
            link.hear().await
        };
        let outcome = tokio::time::timeout(WITHIN, outcome).await.expect("in time");
        assert!(outcome.is_err(), "{outcome:?}");
    }
}

#[actix::test]
async fn members_nobody_knows_and_first_messages_that_make_no_sense_are_refused() {
    let installation = Installation::start().await;
    let machine = installation.enrol("m").await;
    let hello = |version| {
        FromMember::Hello(Hello {
            version,
            life: 1,
            program_version: "t".into(),
            replication_addresses: vec![],
            disks: vec![],
        })
    };
    let member = TlsConnect::as_member(&machine.identity).expect("a client");
    let nobody = TlsConnect::to_enrol(installation.server().authority_fingerprint()).expect("a client");
    let cases = [
        (&member, hello(77), RefusalCode::VersionUnsupported),
        (&member, FromMember::Where, RefusalCode::Malformed),
        (&nobody, hello(CONTROL_VERSION), RefusalCode::CertificateRequired),
    ];
    for (connect, first, code) in cases {
        assert_eq!(first_answer(&installation, connect, first).await, code);
    }
    // A certificate of our authority for a machine that the inventory does not have: the state was lost.
    let mut foreign = Installation::start().await;
    foreign.stop().await;
    let state = foreign.dir.path().join("config-server");
    for name in ["authority.pem", "authority.key"] {
        std::fs::copy(installation.dir.path().join("config-server").join(name), state.join(name)).expect("copied");
    }
    foreign.start_again().await;
    assert_eq!(first_answer(&foreign, &member, hello(CONTROL_VERSION)).await, RefusalCode::MemberUnknown);
}

async fn first_answer(installation: &Installation, connect: &TlsConnect, first: FromMember) -> RefusalCode {
    let mut link = connect.connect(&installation.address.to_string()).await.expect("connected");
    link.say(&first).await.expect("said");
    match tokio::time::timeout(WITHIN, link.hear()).await.expect("in time") {
        Ok(Some(ToMember::Refused(refusal))) => refusal.code,
        other => panic!("refused, not {other:?}"),
    }
}

#[actix::test]
async fn a_second_agent_with_the_same_certificate_replaces_the_first_and_an_event_says_so() {
    let installation = Installation::start().await;
    let machine = installation.enrol("m").await;
    let mut first = machine.agent(1);
    first.connected().await;
    let mut second = machine.agent(2);
    second.connected().await;
    loop {
        if let SessionEvent::Disconnected { error: LinkError::Refused(refusal), .. } = first.next().await {
            assert_eq!(refusal.code, RefusalCode::Busy);
            break;
        }
    }
    let plane = installation.plane();
    until("the event is there", || {
        let events = plane.events(None, 100, &Default::default()).items;
        events.iter().any(|event| event.code == "two_agents").then_some(())
    })
    .await;
}

#[actix::test]
async fn half_an_authority_and_a_foreign_vault_stop_the_start() {
    let mut installation = Installation::start().await;
    installation.stop().await;
    let any = SocketAddr::from(([127, 0, 0, 1], 0));
    let state = installation.dir.path().join("config-server");
    let (key, aside) = (state.join("authority.key"), state.join("aside"));
    std::fs::rename(&key, &aside).expect("moved");
    let error = start_when_free(&installation, any).await;
    assert!(matches!(error, StartError::HalfAuthority { .. }), "{error}");
    std::fs::rename(&aside, &key).expect("moved back");
    // Another installation's vault at this one's address.
    let mut other = Installation::start().await;
    other.stop().await;
    std::fs::remove_dir_all(installation.dir.path().join("vault")).expect("removed");
    std::fs::rename(other.dir.path().join("vault"), installation.dir.path().join("vault")).expect("moved");
    let error = start_when_free(&installation, any).await.to_string();
    assert!(error.contains("belongs to another installation"), "{error}");
}

async fn start_when_free(installation: &Installation, listen: SocketAddr) -> StartError {
    for _ in 0..500 {
        match ConfigServer::start(config(installation.dir.path(), installation.chaos.clone(), listen)).await {
            Err(StartError::State(super::super::state::StateError::InUse { .. })) => {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
            Err(error) => return error,
            Ok(_) => panic!("it must not start"),
        }
    }
    panic!("the state is never let go of");
}
