//! Golden bytes, taken from the protocol's text: what other programs expect on the wire.

use super::*;

fn hex(bytes: &[u8]) -> String {
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

fn built(build: impl FnOnce(&mut Vec<u8>)) -> String {
    let mut out = Vec::new();
    build(&mut out);
    hex(&out)
}

#[test]
fn a_greeting_is_fixed_newstyle_and_offers_to_leave_out_the_zeroes() {
    assert_eq!(hex(&greeting()), "4e42444d41474943".to_owned() + "49484156454f5054" + "0003");
}

#[test]
fn a_request_has_its_golden_bytes_and_reads_back() {
    let request = Request { flags: 1, command: 6, cookie: 0x0102_0304_0506_0708, offset: 1 << 40, length: 4096 };
    let golden = "25609513".to_owned() + "0001" + "0006" + "0102030405060708" + "0000010000000000" + "00001000";
    assert_eq!(hex(&request.encode()), golden);
    assert_eq!(Request::decode(&request.encode()), Some(request));
    let mut wrong = request.encode();
    wrong[0] ^= 1;
    assert_eq!(Request::decode(&wrong), None);
}

#[test]
fn an_option_and_its_reply_have_their_golden_bytes() {
    let head = OptionHead { option: option::GO, length: 6 };
    assert_eq!(hex(&head.encode()), "49484156454f50540000000700000006");
    assert_eq!(OptionHead::decode(&head.encode()), Some(head));
    assert_eq!(
        built(|out| put_option_reply(out, option::STARTTLS, option_reply::ERR_POLICY, b"no")),
        "0003e889045565a9".to_owned() + "00000005" + "80000002" + "00000002" + "6e6f"
    );
}

#[test]
fn replies_have_their_golden_bytes() {
    assert_eq!(built(|out| put_simple_reply(out, 7, EIO)), "67446698000000050000000000000007");
    assert_eq!(
        built(|out| put_data_chunk_head(out, 7, false, 512, 4096)),
        "668e33ef".to_owned() + "0000" + "0001" + "0000000000000007" + "00001008" + "0000000000000200"
    );
    assert_eq!(
        built(|out| put_hole_chunk(out, 7, true, 512, 4096)),
        "668e33ef".to_owned() + "0001" + "0002" + "0000000000000007" + "0000000c" + "0000000000000200" + "00001000"
    );
    assert_eq!(
        built(|out| put_status_chunk(out, 7, &[(4096, allocation::HOLE | allocation::ZERO), (512, 0)])),
        "668e33ef".to_owned()
            + "0001"
            + "0005"
            + "0000000000000007"
            + "00000014"
            + "00000001"
            + "0000100000000003"
            + "0000020000000000"
    );
}

#[test]
fn an_error_chunk_carries_number_text_and_place() {
    let error = NbdError::NoSpace("full".into());
    assert_eq!(
        built(|out| put_error_chunk(out, 7, &error, None)),
        "668e33ef".to_owned() + "0001" + "8001" + "0000000000000007" + "0000000a" + "0000001c" + "0004" + "66756c6c"
    );
    assert_eq!(
        built(|out| put_error_chunk(out, 7, &error, Some(512))),
        "668e33ef".to_owned()
            + "0001"
            + "8002"
            + "0000000000000007"
            + "00000012"
            + "0000001c"
            + "0004"
            + "66756c6c"
            + "0000000000000200"
    );
}

#[test]
fn every_error_has_the_protocols_number_and_comes_back_as_itself() {
    let text = || "why".to_owned();
    for (error, errno) in [
        (NbdError::NotPermitted(text()), 1),
        (NbdError::Io(text()), 5),
        (NbdError::Invalid(text()), 22),
        (NbdError::NoSpace(text()), 28),
        (NbdError::Overflow(text()), 75),
        (NbdError::NotSupported(text()), 95),
        (NbdError::Shutdown(text()), 108),
    ] {
        assert_eq!(error.errno(), errno);
        assert_eq!(NbdError::from_errno(errno, text()), error);
    }
    assert_eq!(NbdError::from_errno(12345, text()), NbdError::Invalid(text()));
}

#[test]
fn a_long_error_text_is_cut_between_characters() {
    let error = NbdError::Io("é".repeat(1000));
    let mut out = Vec::new();
    put_error_chunk(&mut out, 1, &error, None);
    let text = &out[CHUNK_HEAD_BYTES + 6..];
    assert_eq!(text.len(), 512);
    assert!(std::str::from_utf8(text).is_ok());
}
