//! Other people's NBD clients against served recovery points: read-only, and with an overlay that takes what they write.

mod nbd_rig;
#[path = "nbd_rig/point.rs"]
mod point;

use nbd_rig::{Disk, Rig, fio, have, nbdsh, pattern, run, succeed};
use point::Point;
use serde_json::Value;

const DISK_BYTES: usize = 32 << 20;

/// One point of a disk with `sector_bytes`, served as `ro` and, with an overlay, as `rw`.
struct Served {
    rig: Rig,
    bytes: Vec<u8>,
    _point: Point,
}

impl Served {
    fn new(sector_bytes: u32) -> Self {
        let (rig, bytes) = (Rig::new(&[]), pattern(DISK_BYTES));
        let point = Point::new(&bytes, sector_bytes);
        rig.server.set_exports(vec![point.export("ro", None), point.export("rw", Some(rig.dir.path()))]);
        Self { rig, bytes, _point: point }
    }

    /// Whether the read-only export, copied out, is the point.
    fn is_untouched(&self) -> bool {
        let out = self.rig.path("untouched.raw");
        succeed("nbdcopy", &[&self.rig.uri("ro"), out.to_str().expect("a path")]);
        std::fs::read(out).expect("read") == self.bytes
    }
}

#[test]
fn a_point_is_told_compared_and_copied_out_and_its_holes_cost_nothing() {
    let test = "a_point_is_told_compared_and_copied_out_and_its_holes_cost_nothing";
    if !have(test, &["nbdinfo", "nbdcopy", "qemu-img", "qemu-io", "nbdsh", "python3"]) {
        return;
    }
    for sector_bytes in [512, 4096] {
        let served = Served::new(sector_bytes);
        let uri = served.rig.uri("ro");
        let told: Value = serde_json::from_str(&succeed("nbdinfo", &["--json", &uri])).expect("JSON");
        let export = &told["exports"][0];
        assert_eq!(export["export-size"], DISK_BYTES as u64);
        assert_eq!(export["block_size_minimum"], sector_bytes);
        assert_eq!(export["is_read_only"], true);
        let map = succeed("nbdinfo", &["--map", "--totals", &uri]);
        assert!(map.contains("hole,zero") && map.contains("data"), "{map}");

        let source = served.rig.path("source.raw");
        std::fs::write(&source, &served.bytes).expect("written");
        let source = source.to_str().expect("a path");
        let said = succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", source, &uri]);
        assert!(said.contains("identical"), "{said}");
        let back = served.rig.path("back.qcow2");
        let back = back.to_str().expect("a path");
        succeed("qemu-img", &["convert", "-f", "raw", "-O", "qcow2", &uri, back]);
        succeed("qemu-img", &["compare", "-f", "raw", "-F", "qcow2", source, back]);
        assert!(served.is_untouched());
        let output = run("qemu-io", &["-f", "raw", &uri, "-c", "write 0 64k"]);
        assert!(!output.status.success(), "a point cannot be written without an overlay");
        nbdsh(
            &uri,
            r#"
h.set_strict_mode(0)
for call in [lambda: h.pwrite(b"x" * 4096, 0), lambda: h.trim(4096, 0), lambda: h.zero(4096, 0)]:
    try:
        call()
        raise SystemExit("a point was changed")
    except nbd.Error as error:
        assert error.errno == "EPERM", error.errno
h.flush()
"#,
        );
    }
}

#[test]
fn an_overlay_takes_writes_trims_and_zeroes_and_the_point_stays_as_it_was() {
    let test = "an_overlay_takes_writes_trims_and_zeroes_and_the_point_stays_as_it_was";
    if !have(test, &["qemu-io", "nbdcopy", "nbdsh", "python3"]) {
        return;
    }
    for sector_bytes in [512, 4096] {
        let served = Served::new(sector_bytes);
        let uri = served.rig.uri("rw");
        let steps = [
            "write -P 0x5a 0 1M",
            "write -f -P 0x33 1M 64k",
            "write -P 0x44 2M 8M",
            "discard 2M 1M",
            "write -z 3M 64k",
            "write -z -u 4M 64k",
            "write -P 0x66 12M 512",
            "flush",
            "read -P 0x5a 0 1M",
            "read -P 0x33 1M 64k",
            "read -P 0 2M 1M",
            "read -P 0 3M 64k",
            "read -P 0 4M 64k",
            "read -P 0x44 5M 5M",
            "read -P 0x66 12M 512",
        ];
        let mut args = vec!["-f", "raw", uri.as_str()];
        steps.iter().for_each(|step| args.extend(["-c", step]));
        let out = succeed("qemu-io", &args);
        assert!(!out.contains("verification failed"), "{out}");
        let out = served.rig.path("overlaid.raw");
        succeed("nbdcopy", &["--connections=4", &uri, out.to_str().expect("a path")]);
        let overlaid = std::fs::read(out).expect("read");
        assert!(overlaid[16 << 20..] == served.bytes[16 << 20..], "what was not written shows the point");
        assert!(overlaid[..1 << 20].iter().all(|byte| *byte == 0x5a));
        nbdsh(
            &uri,
            "h.cache(1 << 20, 0)\nh.zero(4096, 0, nbd.CMD_FLAG_FAST_ZERO)\nassert h.pread(8192, 0) == bytes(4096) + b'\\x5a' * 4096",
        );
        assert!(served.is_untouched());
    }
}

#[test]
fn fio_and_nbdcopy_work_on_an_overlay_at_both_sector_sizes_over_several_connections() {
    let test = "fio_and_nbdcopy_work_on_an_overlay_at_both_sector_sizes_over_several_connections";
    if !have(test, &["fio", "nbdcopy"]) {
        return;
    }
    let served = Served::new(512);
    fio(&served.rig.uri("rw"), &["--bs=512", "--size=2M", "--iodepth=16"]);
    let served = Served::new(4096);
    let four = ["--bs=4k", "--size=8M", "--iodepth=8", "--numjobs=4", "--offset_increment=8M"];
    fio(&served.rig.uri("rw"), &four);
    let mut new = pattern(DISK_BYTES);
    new.reverse();
    let source = served.rig.path("new.raw");
    std::fs::write(&source, &new).expect("written");
    let uri = served.rig.uri("rw");
    succeed("nbdcopy", &["--connections=4", "--requests=32", "--flush", source.to_str().expect("a path"), &uri]);
    let back = served.rig.path("back.raw");
    succeed("nbdcopy", &["--connections=4", &uri, back.to_str().expect("a path")]);
    assert!(std::fs::read(back).expect("read") == new);
    assert!(served.is_untouched());
}

#[test]
fn a_point_and_a_protected_disk_are_served_side_by_side() {
    if !have("a_point_and_a_protected_disk_are_served_side_by_side", &["nbdcopy", "qemu-img"]) {
        return;
    }
    let (rig, bytes) = (Rig::new(&[]), pattern(DISK_BYTES));
    let point = Point::new(&bytes, 512);
    let home = rig.export(&Disk::new("home", DISK_BYTES as u64, 512));
    rig.server.set_exports(vec![point.export("point", None), home]);
    succeed("nbdcopy", &[&rig.uri("point"), &rig.uri("home")]);
    succeed("qemu-img", &["compare", "-f", "raw", "-F", "raw", &rig.uri("point"), &rig.uri("home")]);
    assert!(std::fs::read(rig.image("home")).expect("read") == bytes);
}
