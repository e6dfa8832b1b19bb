//! Other people's NBD clients against our server: what they write is there, what they ask is answered as they expect.

mod nbd_rig;

use nbd_rig::{Disk, Rig, fio, have, nbdsh, pattern, run, succeed};
use serde_json::Value;

const MIB: u64 = 1 << 20;

/// One writable disk of each sector size.
fn both_sectors() -> Rig {
    Rig::new(&[Disk::new("a512", 64 * MIB, 512), Disk::new("b4096", 64 * MIB, 4096)])
}

#[test]
fn nbdinfo_sees_every_export_with_what_it_can_do() {
    if !have("nbdinfo_sees_every_export_with_what_it_can_do", &["nbdinfo"]) {
        return;
    }
    let rig = Rig::new(&[
        Disk::new("a512", 64 * MIB, 512),
        Disk::new("b4096", 32 * MIB, 4096),
        Disk { read_only: true, ..Disk::new("c", MIB, 512) },
    ]);
    let text = succeed("nbdinfo", &["--json", "--list", &rig.uri("")]);
    let listed: Value = serde_json::from_str(&text).expect("JSON");
    assert_eq!(listed["protocol"], "newstyle-fixed");
    assert_eq!(listed["structured"], true);
    let exports = listed["exports"].as_array().expect("exports");
    assert_eq!(exports.len(), 3);
    for export in exports {
        let writable = export["export-name"] != "c";
        let (size, sector) = match export["export-name"].as_str() {
            Some("a512") => (64 * MIB, 512),
            Some("b4096") => (32 * MIB, 4096),
            _ => (MIB, 512),
        };
        assert_eq!(export["export-size"], size);
        assert_eq!(export["block_size_minimum"], sector);
        assert_eq!(export["block_size_maximum"], 32 * MIB);
        assert_eq!(export["is_read_only"], !writable);
        assert_eq!(export["contexts"][0], "base:allocation");
        for able in ["can_df", "can_flush", "can_multi_conn", "can_cache"] {
            assert_eq!(export[able], true, "{able}");
        }
        for able in ["can_fua", "can_trim", "can_zero", "can_fast_zero"] {
            assert_eq!(export[able], writable, "{able} of {}", export["export-name"]);
        }
    }
}

#[test]
fn qemu_io_reads_what_it_wrote_trimmed_and_zeroed_on_both_sector_sizes() {
    if !have("qemu_io_reads_what_it_wrote_trimmed_and_zeroed_on_both_sector_sizes", &["qemu-io"]) {
        return;
    }
    let rig = both_sectors();
    for name in ["a512", "b4096"] {
        let steps = [
            "write -P 0x5a 0 1M",
            "write -f -P 0x33 1M 64k",
            "write -P 0x44 2M 33M",
            "discard 2M 1M",
            "write -z 3M 64k",
            "write -z -u 4M 64k",
            "flush",
            "read -P 0x5a 0 1M",
            "read -P 0x33 1M 64k",
            "read -P 0 2M 1M",
            "read -P 0 3M 64k",
            "read -P 0 4M 64k",
            "read -P 0x44 5M 30M",
            "aio_write -P 0x77 40M 64k",
            "aio_write -P 0x78 41M 64k",
            "aio_flush",
            "read -P 0x77 40M 64k",
            // QEMU reads, changes and writes whole sectors where it is asked for less.
            "write -P 0x66 42M 512",
            "write -P 0x67 44040704 1536",
            "read -P 0x66 42M 512",
            "read -P 0x67 44040704 1536",
        ];
        let uri = rig.uri(name);
        let mut args = vec!["-f", "raw", uri.as_str()];
        steps.iter().for_each(|step| args.extend(["-c", step]));
        let out = succeed("qemu-io", &args);
        assert!(!out.contains("verification failed") && !out.contains("error"), "{name}:\n{out}");
        let image = std::fs::read(rig.image(name)).expect("read");
        assert!(image[..1 << 20].iter().all(|byte| *byte == 0x5a));
        assert!(image[44040704..44042240].iter().all(|byte| *byte == 0x67));
    }
}

#[test]
fn qemu_img_converts_in_and_out_and_finds_both_sides_equal() {
    if !have("qemu_img_converts_in_and_out_and_finds_both_sides_equal", &["qemu-img"]) {
        return;
    }
    let rig = both_sectors();
    let source = rig.path("source.raw");
    std::fs::write(&source, pattern(64 << 20)).expect("written");
    let source = source.to_str().expect("a path");
    for name in ["a512", "b4096"] {
        let uri = rig.uri(name);
        succeed("qemu-img", &["convert", "-n", "-f", "raw", "-O", "raw", "-m", "16", "-W", source, &uri]);
        let said = succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", source, &uri]);
        assert!(said.contains("identical"), "{said}");
        let back = rig.path("back.qcow2");
        let back = back.to_str().expect("a path");
        succeed("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, back]);
        succeed("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", source, back]);
        let map: Value =
            serde_json::from_str(&succeed("qemu-img", &["map", "--output=json", "-f", "raw", &uri])).expect("JSON");
        let extents = map.as_array().expect("extents");
        assert!(extents.iter().any(|extent| extent["zero"] == true), "holes are told: {extents:?}");
        assert!(extents.iter().any(|extent| extent["data"] == true));
    }
}

#[test]
fn nbdcopy_copies_in_and_out_over_several_connections() {
    if !have("nbdcopy_copies_in_and_out_over_several_connections", &["nbdcopy"]) {
        return;
    }
    let rig = both_sectors();
    let bytes = pattern(64 << 20);
    let (source, back) = (rig.path("source.raw"), rig.path("back.raw"));
    std::fs::write(&source, &bytes).expect("written");
    for name in ["a512", "b4096"] {
        let uri = rig.uri(name);
        succeed("nbdcopy", &["--connections=4", "--requests=32", "--flush", source.to_str().expect("a path"), &uri]);
        assert!(std::fs::read(rig.image(name)).expect("read") == bytes, "{name}: in");
        std::fs::File::create(&back).and_then(|file| file.set_len(64 << 20)).expect("a file");
        succeed("nbdcopy", &["--connections=4", &uri, back.to_str().expect("a path")]);
        assert!(std::fs::read(&back).expect("read") == bytes, "{name}: out");
    }
    // Server to server, holes by block status.
    succeed("nbdcopy", &[&rig.uri("a512"), &rig.uri("b4096")]);
}

#[test]
fn libnbd_gets_what_the_protocol_promises_and_the_errors_it_names() {
    if !have("libnbd_gets_what_the_protocol_promises_and_the_errors_it_names", &["nbdsh", "python3"]) {
        return;
    }
    let rig = both_sectors();
    let out = nbdsh(
        &rig.uri("b4096"),
        r#"
assert h.get_structured_replies_negotiated()
assert h.can_meta_context("base:allocation")
assert (h.get_block_size(nbd.SIZE_MINIMUM), h.get_block_size(nbd.SIZE_MAXIMUM)) == (4096, 32 << 20)
h.pwrite(b"A" * 65536, 1 << 20, nbd.CMD_FLAG_FUA)
h.pwrite(b"B" * (1 << 20), 2 << 20)
h.trim(65536, 1 << 20, nbd.CMD_FLAG_FUA)
h.zero(8192, 2 << 20, nbd.CMD_FLAG_NO_HOLE)
h.zero(8192, (2 << 20) + 8192)
h.zero(8192, (2 << 20) + 16384, nbd.CMD_FLAG_FAST_ZERO | nbd.CMD_FLAG_FUA)
h.flush()
assert h.pread(65536, 1 << 20) == bytes(65536)
assert h.pread(65536, 2 << 20) == bytes(24576) + b"B" * 40960
whole = []
h.pread_structured(1 << 20, 2 << 20, lambda data, *rest: whole.append(bytes(data)), nbd.CMD_FLAG_DF)
assert whole == [bytes(24576) + b"B" * ((1 << 20) - 24576)], "one chunk only"
extents = []
h.block_status(64 << 20, 0, lambda context, offset, entries, error: extents.extend(entries))
assert sum(extents[0::2]) == 64 << 20, extents
assert 3 in extents[1::2] and 0 in extents[1::2], extents
one = []
h.block_status(64 << 20, 0, lambda context, offset, entries, error: one.extend(entries), nbd.CMD_FLAG_REQ_ONE)
assert len(one) == 2, one
chunks = []
def chunk(buffer, offset, status, error):
    chunks.append((len(buffer), offset, status))
h.pread_structured(4 << 20, 0, chunk)
assert any(status == nbd.READ_HOLE for _, _, status in chunks), chunks
assert any(status == nbd.READ_DATA for _, _, status in chunks), chunks
assert h.can_cache()
h.cache(64 << 20, 0)
h.cache(4096, (64 << 20) - 4096)
assert h.pread(65536, 2 << 20) == bytes(24576) + b"B" * 40960
h.set_strict_mode(0)
import errno
def fails(number, call, *args):
    try:
        call(*args)
    except nbd.Error as error:
        assert error.errnum == number, (error.errnum, number, args)
    else:
        raise AssertionError("succeeded: %r" % (args,))
fails(errno.EINVAL, h.pread, 512, 0)
fails(errno.EINVAL, h.pwrite, b"x" * 4096, 512)
fails(errno.EINVAL, h.pread, 4096, 64 << 20)
fails(errno.ENOSPC, h.pwrite, b"x" * 4096, 64 << 20)
fails(errno.ENOSPC, h.zero, 8192, (64 << 20) - 4096)
fails(errno.EINVAL, h.trim, 8192, (64 << 20) - 4096)
fails(errno.EINVAL, h.cache, 4096, 64 << 20)
fails(errno.EINVAL, h.pwrite, b"x" * ((32 << 20) + 4096), 0)
assert h.pread(4096, 1 << 20) == bytes(4096)
print("all as promised")
"#,
    );
    assert!(out.contains("all as promised"));
    let out = nbdsh(
        &rig.uri("a512"),
        r#"
h.pwrite(b"C" * 512, 512)
assert h.pread(1536, 0) == bytes(512) + b"C" * 512 + bytes(512)
print("all as promised")
"#,
    );
    assert!(out.contains("all as promised"));
}

#[test]
fn a_client_without_structured_replies_is_served_as_well() {
    if !have("a_client_without_structured_replies_is_served_as_well", &["nbdsh", "python3"]) {
        return;
    }
    let rig = both_sectors();
    let program = format!(
        r#"
import nbd
h = nbd.NBD()
h.set_request_structured_replies(False)
h.connect_uri({:?})
assert not h.get_structured_replies_negotiated() and not h.can_df()
h.pwrite(b"D" * (1 << 20), 1 << 20)
assert h.pread(2 << 20, 0) == bytes(1 << 20) + b"D" * (1 << 20)
h.set_strict_mode(0)
try:
    h.pread(513, 0)
    raise SystemExit("an unaligned read succeeded")
except nbd.Error as error:
    assert error.errno == "EINVAL", error.errno
o = nbd.NBD()
o.set_handshake_flags(0)
o.set_opt_mode(False)
o.connect_uri({:?})
assert o.get_size() == 64 << 20 and o.pread(4096, 1 << 20) == b"D" * 4096
"#,
        rig.uri("a512"),
        rig.uri("a512"),
    );
    succeed("python3", &["-c", &program]);
}

#[test]
fn a_flush_on_one_connection_covers_what_others_completed() {
    if !have("a_flush_on_one_connection_covers_what_others_completed", &["nbdsh", "python3"]) {
        return;
    }
    let rig = both_sectors();
    let uri = rig.uri("a512");
    nbdsh(
        &uri,
        &format!(
            r#"
others = [nbd.NBD() for _ in range(4)]
for o in others:
    o.connect_uri({uri:?})
    assert o.can_multi_conn()
for round in range(50):
    for number, o in enumerate(others):
        o.pwrite(bytes([round + 1]) * 4096, number * 4096)
    h.flush()
    for number in range(4):
        assert h.pread(4096, number * 4096) == bytes([round + 1]) * 4096
"#
        ),
    );
}

#[test]
fn a_read_only_export_is_read_and_never_changed() {
    if !have("a_read_only_export_is_read_and_never_changed", &["qemu-io", "nbdsh", "python3"]) {
        return;
    }
    let rig = Rig::new(&[]);
    let bytes = pattern(1 << 20);
    std::fs::write(rig.image("ro"), &bytes).expect("written");
    rig.server.set_exports(vec![rig.export(&Disk { read_only: true, ..Disk::new("ro", MIB, 512) })]);
    let output = run("qemu-io", &["-f", "raw", &rig.uri("ro"), "-c", "write -P 1 0 64k"]);
    assert!(!output.status.success(), "QEMU does not even open it for writing");
    succeed("qemu-io", &["-r", "-f", "raw", &rig.uri("ro"), "-c", "read 0 1M"]);
    nbdsh(
        &rig.uri("ro"),
        r#"
h.set_strict_mode(0)
for call in [lambda: h.pwrite(b"x" * 512, 0), lambda: h.trim(512, 0), lambda: h.zero(512, 0)]:
    try:
        call()
        raise SystemExit("a read-only export was changed")
    except nbd.Error as error:
        assert error.errno == "EPERM", error.errno
"#,
    );
    assert_eq!(std::fs::read(rig.image("ro")).expect("read"), bytes);
}

#[test]
fn fio_verifies_what_it_wrote_by_checksum_at_512_and_4096_bytes_and_over_several_connections() {
    if !have("fio_verifies_what_it_wrote_by_checksum_at_512_and_4096_bytes_and_over_several_connections", &["fio"]) {
        return;
    }
    let rig = both_sectors();
    fio(&rig.uri("a512"), &["--bs=512", "--size=4M", "--iodepth=16"]);
    fio(&rig.uri("b4096"), &["--bs=4k", "--size=32M", "--iodepth=16"]);
    fio(&rig.uri("a512"), &["--bsrange=512-128k", "--bs_unaligned=0", "--size=32M", "--iodepth=32"]);
    let four = ["--bs=4k", "--size=8M", "--iodepth=8", "--numjobs=4", "--offset_increment=8M"];
    fio(&rig.uri("b4096"), &four);
}

#[test]
fn clients_are_served_over_loopback_as_well() {
    if !have("clients_are_served_over_loopback_as_well", &["qemu-io"]) {
        return;
    }
    let rig = Rig::new(&[]);
    let addr = "127.0.0.1:0".parse().expect("an address");
    let server =
        farshore_engine::nbd::NbdServer::bind_tcp(addr, Default::default(), &nbd_rig::quiet()).expect("listens");
    server.set_exports(vec![rig.export(&Disk::new("d", 4 * MIB, 512))]);
    succeed("qemu-io", &["-f", "raw", &server.uri("d"), "-c", "write -P 7 0 4M", "-c", "read -P 7 0 4M"]);
}
