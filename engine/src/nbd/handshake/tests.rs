use bytes::Bytes;

use super::*;
use crate::nbd::export::{NbdError, Op, StatusExtent, ZeroFlags};

struct Named(&'static str);

impl Export for Named {
    fn info(&self) -> ExportInfo {
        ExportInfo { description: "a disk".into(), ..ExportInfo::full(self.0, 1 << 20, 4096) }
    }
    fn read(&self, _: u64, _: &mut [u8]) -> Result<(), NbdError> {
        Ok(())
    }
    fn write(&self, _: u64, _: Bytes, _: bool) -> Result<(), NbdError> {
        Ok(())
    }
    fn flush(&self) -> Result<(), NbdError> {
        Ok(())
    }
    fn trim(&self, _: u64, _: u32, _: bool) -> Result<(), NbdError> {
        Ok(())
    }
    fn write_zeroes(&self, _: u64, _: u32, _: ZeroFlags) -> Result<(), NbdError> {
        Ok(())
    }
    fn block_status(&self, _: u64, len: u32, _: usize) -> Result<Vec<StatusExtent>, NbdError> {
        Ok(vec![StatusExtent { len: len.into(), hole: false, zero: false }])
    }
    fn is_quick(&self, _: &Op) -> bool {
        true
    }
}

fn negotiation(names: &[&'static str]) -> Negotiation {
    let exports = names.iter().map(|name| Arc::new(Named(name)) as Arc<dyn Export>).collect();
    Negotiation::new(Arc::new(exports), 3).expect("known flags")
}

/// The kinds of the replies to one option, with their data.
fn replies(out: &[u8]) -> Vec<(u32, Vec<u8>)> {
    let (mut input, mut found) = (Fields(out), Vec::new());
    while !input.is_empty() {
        assert_eq!(input.u64(), Some(proto::OPTION_REPLY_MAGIC));
        input.u32().expect("an option");
        let (kind, len) = input.u32().zip(input.u32()).expect("a whole head");
        found.push((kind, input.bytes(len as usize).expect("whole data").to_vec()));
    }
    found
}

fn ask(negotiation: &mut Negotiation, option: u32, data: &[u8]) -> (Vec<(u32, Vec<u8>)>, Next) {
    let mut out = Vec::new();
    let next = negotiation.answer(option, data, &mut out);
    (replies(&out), next)
}

fn named(name: &str, rest: &[u8]) -> Vec<u8> {
    [&(name.len() as u32).to_be_bytes()[..], name.as_bytes(), rest].concat()
}

fn query(name: &str, queries: &[&str]) -> Vec<u8> {
    let mut data = named(name, &(queries.len() as u32).to_be_bytes());
    queries.iter().for_each(|query| data.extend(named(query, &[])));
    data
}

#[test]
fn an_export_is_opened_by_its_name_and_told_with_its_sector() {
    let mut negotiation = negotiation(&["a", "b"]);
    let (told, next) = ask(&mut negotiation, option::GO, &named("b", &[0, 0]));
    assert!(matches!(next, Next::Serve(agreed) if agreed.export.info().name == "b" && !agreed.structured));
    let kinds: Vec<_> = told.iter().map(|(kind, _)| *kind).collect();
    assert_eq!(kinds, [option_reply::INFO, option_reply::INFO, option_reply::ACK]);
    assert_eq!(told[0].1[..10], [&[0, 0][..], &(1_u64 << 20).to_be_bytes()].concat());
    let sizes = [4096_u32, 4096, 32 << 20].map(u32::to_be_bytes).concat();
    assert_eq!(told[1].1, [&[0, 3][..], &sizes].concat());
}

#[test]
fn the_empty_name_opens_the_only_export_and_nothing_where_there_are_more() {
    let (_, next) = ask(&mut negotiation(&["a"]), option::GO, &named("", &[0, 0]));
    assert!(matches!(next, Next::Serve(_)));
    let (told, next) = ask(&mut negotiation(&["a", "b"]), option::GO, &named("", &[0, 0]));
    assert!(matches!(next, Next::Option));
    assert_eq!(told[0].0, option_reply::ERR_UNKNOWN);
}

#[test]
fn all_exports_are_listed_with_their_descriptions() {
    let (told, _) = ask(&mut negotiation(&["a", "b"]), option::LIST, &[]);
    assert_eq!(told.len(), 3);
    assert_eq!(told[1], (option_reply::SERVER, named("b", b"a disk")));
}

#[test]
fn block_status_needs_structured_replies_and_holds_for_the_export_it_was_selected_for() {
    let mut negotiation = negotiation(&["a", "b"]);
    let selection = query("a", &["base:allocation", "qemu:dirty-bitmap:x"]);
    assert_eq!(ask(&mut negotiation, option::SET_META_CONTEXT, &selection).0[0].0, option_reply::ERR_INVALID);
    assert_eq!(ask(&mut negotiation, option::STRUCTURED_REPLY, &[]).0[0].0, option_reply::ACK);
    let (told, _) = ask(&mut negotiation, option::SET_META_CONTEXT, &selection);
    assert_eq!(told.len(), 2, "one context, then the end");
    assert_eq!(told[0].1, [&[0, 0, 0, 1][..], b"base:allocation"].concat());
    let (_, next) = ask(&mut negotiation, option::GO, &named("b", &[0, 0]));
    assert!(matches!(next, Next::Serve(agreed) if agreed.structured && !agreed.status));
    let (_, next) = ask(&mut negotiation, option::GO, &named("a", &[0, 0]));
    assert!(matches!(next, Next::Serve(agreed) if agreed.structured && agreed.status));
    let (told, _) = ask(&mut negotiation, option::SET_META_CONTEXT, &query("a", &["base:"]));
    assert_eq!(told.len(), 1, "a wildcard selects nothing");
    let (told, _) = ask(&mut negotiation, option::LIST_META_CONTEXT, &query("a", &[]));
    assert_eq!(told.len(), 2, "but no query lists everything");
}

#[test]
fn what_is_not_offered_is_refused_by_its_reason() {
    let mut negotiation = negotiation(&["a"]);
    for (option, data, kind) in [
        (option::STARTTLS, vec![], option_reply::ERR_POLICY),
        (11, vec![], option_reply::ERR_UNSUP),
        (77, vec![0; 100], option_reply::ERR_UNSUP),
        (option::LIST, vec![0], option_reply::ERR_INVALID),
        (option::STRUCTURED_REPLY, vec![0], option_reply::ERR_INVALID),
        (option::GO, vec![], option_reply::ERR_INVALID),
        (option::GO, named("a", &[0, 9]), option_reply::ERR_INVALID),
        (option::GO, named("a", &[0, 0, 0]), option_reply::ERR_INVALID),
        (option::GO, u32::MAX.to_be_bytes().to_vec(), option_reply::ERR_INVALID),
        (option::INFO, named("x", &[0, 0]), option_reply::ERR_UNKNOWN),
        (option::LIST_META_CONTEXT, named("a", &[255; 4]), option_reply::ERR_INVALID),
    ] {
        let (told, next) = ask(&mut negotiation, option, &data);
        assert!(matches!(next, Next::Option));
        assert_eq!(told[0].0, kind, "option {option} with {data:?}");
    }
    assert!(Negotiation::new(Arc::default(), 4).is_none(), "unknown client flags");
}

#[test]
fn the_old_way_to_open_an_export_gives_size_flags_and_zeroes_unless_left_out() {
    let mut out = Vec::new();
    assert!(matches!(negotiation(&["a"]).answer(option::EXPORT_NAME, b"a", &mut out), Next::Serve(_)));
    assert_eq!(out.len(), 10);
    let exports: Vec<Arc<dyn Export>> = vec![Arc::new(Named("a"))];
    let mut with_zeroes = Negotiation::new(Arc::new(exports), 1).expect("known flags");
    out.clear();
    assert!(matches!(with_zeroes.answer(option::EXPORT_NAME, b"a", &mut out), Next::Serve(_)));
    assert_eq!(out.len(), 134);
    assert!(matches!(with_zeroes.answer(option::EXPORT_NAME, b"other", &mut out), Next::Close));
}
