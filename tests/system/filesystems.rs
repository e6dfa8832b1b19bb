//! ext4 and xfs with SQLite and PostgreSQL running on a protected disk: points taken under load pass fsck and the
//! databases' own recovery; the newest point after a clean stop equals the source.

use std::process::Command;

use serde_json::Value;

use crate::cluster::{Machine, Site};
use crate::mounted::{Kind, Loop, Mount, Postgres, Stack, run, sqlite_check, sqlite_insert, sqlite_update};
use crate::rig::{eventually, is_root, privileged, sized};
use crate::vaults;

const MIB: u64 = 1 << 20;
/// Rows of 500 bytes that the SQLite database grows to: it shares a small disk with PostgreSQL.
const MOST_ROWS: u32 = 100_000;

fn databases_on(kind: Kind, name: &'static str) {
    if !privileged(name, is_root(), "root, FUSE and loop devices") {
        return;
    }
    let rig = vaults::rig("filesystems");
    let mut site = Site::up(&rig, &[]);
    let mut machine = Machine::new(&rig, kind.name(), &[("data", 768 * MIB, 512)]);
    let token = site.token(&rig, "machine");
    machine.start(&rig, &site, Some(&token));

    let stack = Stack::make(&rig, "source", &machine.uri("data"), kind);
    let mount = stack.mount.at.clone();
    let sqlite = mount.join("rows.db");
    sqlite_insert(&sqlite, 200);
    let postgres = Postgres::make(mount.join("pg"), rig.path("pg.run"));
    run("sync", &["-f", mount.to_str().expect("text")]);
    let floor = machine.settled(&rig)["committed"].as_u64().expect("a committed LSN");

    let seconds = sized(20, 600);
    let mut load = postgres.load(&rig, seconds);
    let mut rows = 200;
    while load.runs() {
        if rows < MOST_ROWS {
            sqlite_insert(&sqlite, 50);
            rows += 50;
        } else {
            sqlite_update(&sqlite, 50);
        }
    }
    load.succeeded();
    let transactions = postgres.check();
    assert!(transactions > 0, "pgbench did work");
    let rows = sqlite_check(&sqlite);
    drop(postgres);
    drop(stack);
    machine.settled(&rig);
    machine.agent.take().expect("a running agent").stop();

    let points: Vec<Value> =
        site.points(&rig, machine.name).into_iter().filter(|point| point["lsn"].as_u64() > Some(floor)).collect();
    let wanted = sized(5, 50);
    assert!(points.len() >= wanted, "{} points under load", points.len());
    let image = machine.disks[0].image.display().to_string();
    for (number, point) in points.iter().step_by((points.len() / wanted).max(1)).enumerate() {
        let id = point["id"].as_str().expect("a point's id");
        let served = site.ctl(&rig, &["serve", machine.name, id]);
        let uri = served["exports"][0]["uri"].as_str().expect("an export").to_owned();
        let copy = rig.path("point.img");
        run("qemu-img", &["convert", "-f", "raw", "-O", "raw", &uri, copy.to_str().expect("text")]);
        if number == 0 {
            run("qemu-img", &["compare", "-f", "raw", "-F", "raw", &image, &uri]);
        }
        let device = Loop::over(&copy);
        let (point_rows, point_transactions) = {
            // Mounting replays the filesystem's journal, starting PostgreSQL its own.
            let mount = Mount::new(&device.device, rig.path("point.mnt"), kind);
            let rows = sqlite_check(&mount.at.join("rows.db"));
            let recovered = Postgres::recover(mount.at.join("pg"), rig.path("pg2.run"));
            (rows, recovered.check())
        };
        kind.check(&device.device);
        assert!(point_rows >= 200 && point_rows <= rows, "{point_rows} rows of {rows}");
        assert!(point_transactions <= transactions);
        if number == 0 {
            assert_eq!((point_rows, point_transactions), (rows, transactions), "the newest point has everything");
        }
        drop(device);
        let id = served["id"].as_str().map_or_else(|| served["id"].to_string(), str::to_owned);
        site.ctl(&rig, &["unserve", &id]);
        eventually("the served point to be gone", || {
            let gone = !Command::new("nbdinfo").arg(&uri).output().is_ok_and(|output| output.status.success());
            if gone { Ok(()) } else { Err(format!("{uri} still answers")) }
        });
    }
    site.up.take().expect("a running server").stop();
}

#[test]
fn points_of_ext4_under_databases_pass_fsck_and_recovery() {
    databases_on(Kind::Ext4, "points_of_ext4_under_databases_pass_fsck_and_recovery");
}

#[test]
fn points_of_xfs_under_databases_pass_fsck_and_recovery() {
    databases_on(Kind::Xfs, "points_of_xfs_under_databases_pass_fsck_and_recovery");
}
