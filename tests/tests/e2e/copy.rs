//! `husk cp`: what becomes of what, in docker's rules, in both directions.

use std::fs;
use std::os::unix::fs::{MetadataExt, symlink};

use husk_tests::wait::eventually;
use husk_tests::{BUSYBOX, Bed};

/// Makes some files and says so.
const FILES: &str = "mkdir -p /d/sub; echo hi >/d/f; echo x >/d/sub/y; ln -s f /d/l; ln -s /d /dl; \
                     ln -s /d/f /fl; touch /ready; while :; do sleep 1; done";

fn container(bed: &Bed) {
    bed.start_sh("web", FILES);
    let ready =
        || (bed.husk(&["exec", "web", "test", "-e", "/ready"]).output().code == 0).then_some(());
    eventually("the files are there", ready);
}

#[test]
fn files_come_out_as_with_docker() {
    let bed = Bed::new();
    container(&bed);
    let to = bed.path("to");
    fs::create_dir(&to).unwrap();
    let cp = |words: &[&str]| bed.husk(&[&["cp"], words].concat()).dir(&to);
    let said = cp(&["web:/d/f", "."]).ok();
    assert_eq!(
        (said.err(), said.out()),
        ("Successfully copied 2.048kB to .".to_owned(), String::new())
    );
    assert_eq!(fs::read(to.join("f")).unwrap(), b"hi\n");
    assert_eq!(cp(&["-q", "web:d/../d/f", "g"]).ok().err(), "");
    assert_eq!(fs::read(to.join("g")).unwrap(), b"hi\n");
    // A folder into one that is there, to a new name, and its content alone.
    cp(&["web:/d", "."]).ok();
    assert_eq!(fs::read(to.join("d/sub/y")).unwrap(), b"x\n");
    assert_eq!(fs::read_link(to.join("d/l")).unwrap().to_str(), Some("f"));
    cp(&["web:/d", "new"]).ok();
    assert!(to.join("new/sub/y").exists());
    fs::create_dir(to.join("into")).unwrap();
    cp(&["web:/d/.", "into"]).ok();
    assert!(to.join("into/sub/y").exists());
    // Symbolic links: themselves, what they lead to, and what is in the folder behind them.
    cp(&["web:/fl", "link"]).ok();
    assert_eq!(fs::read_link(to.join("link")).unwrap().to_str(), Some("/d/f"));
    cp(&["-L", "web:/fl", "behind"]).ok();
    assert_eq!(fs::read(to.join("behind")).unwrap(), b"hi\n");
    cp(&["web:/dl/", "folder"]).ok();
    assert!(to.join("folder/sub/y").exists());
    let tar = cp(&["web:/d/sub", "-"]).ok().stdout;
    assert!(tar.starts_with(b"sub/\0") && tar.len().is_multiple_of(512));
    for (words, reason) in [
        (["web:/nope", "."], "Could not find the file /nope in container web"),
        (["web:/d/f/", "."], "not a directory"),
        (["web:/d", "f"], "cannot copy directory"),
        (["web:/d/f", "no/such"], "invalid output path: directory no does not exist"),
        (["web:/d/f", "no/"], "no such directory"),
        (["web:/d/f", "/dev/null"], "must be a directory or a regular file"),
        (["web:/dev/null", "."], "device"),
        (["ghost:/x", "."], "no such container: ghost"),
        (["web:/x", "web:/y"], "copying between containers is not supported"),
        (["a", "b"], "must specify at least one container source"),
    ] {
        cp(&words).output().refused_with(125, &["cp", reason]);
    }
}

#[test]
fn files_go_in_as_with_docker() {
    let bed = Bed::new();
    container(&bed);
    let from = bed.path("from");
    fs::create_dir_all(from.join("sub")).unwrap();
    fs::write(from.join("a"), "one\n").unwrap();
    fs::write(from.join("sub/b"), vec![7; 300_000]).unwrap();
    symlink("a", from.join("l")).unwrap();
    std::os::unix::fs::chown(from.join("a"), Some(4711), Some(4712)).unwrap();
    let cp = |words: &[&str]| bed.husk(&[&["cp", "-q"], words].concat()).dir(&from);
    let sh = |script: &str| bed.exec_sh("web", script).ok().out();
    cp(&[".", "web:/x"]).ok();
    assert_eq!(sh("cat /x/a; readlink /x/l; stat -c %s,%u /x/sub/b"), "one\na\n300000,0");
    cp(&["sub", "web:/x"]).ok();
    cp(&["sub", "web:/new"]).ok();
    assert_eq!(sh("ls /x/sub /new"), "/new:\nb\n\n/x/sub:\nb");
    cp(&["a", "web:/x/as"]).ok();
    cp(&["-a", "a", "web:/x/mine"]).ok();
    cp(&["a", "web:/dl"]).ok();
    cp(&["-L", "l", "web:/x/behind"]).ok();
    assert_eq!(sh("stat -c %u:%g /x/as /x/mine; cat /d/a /x/behind"), "0:0\n4711:4712\none\none");
    // An archive keeps what it says.
    let tar = cp(&["web:/x/mine", "-"]).ok().stdout;
    cp(&["-", "web:/d/sub"]).stdin(tar).ok();
    assert_eq!(sh("stat -c %u:%g /d/sub/mine"), "4711:4712");
    for (words, reason) in [
        (["nothing", "web:/"], "No such file or directory"),
        (["a", "web:/no/such"], "Could not find the file /no in container web"),
        (["a", "web:/no/"], "no such directory"),
        (["sub", "web:/x/a"], "cannot copy directory"),
        (["a", "web:/dev/null"], "must be a directory or a regular file"),
        (["-", "web:/x/a"], "must be a directory"),
    ] {
        cp(&words).output().refused_with(125, &["cp", reason]);
    }
    cp(&["-", "web:/x"]).stdin("junk").output().refused_with(125, &["cp - web:/x", "archive"]);
}

#[test]
fn copies_need_a_machine_and_no_process() {
    let bed = Bed::new();
    container(&bed);
    let to = bed.path("to");
    let to = to.to_str().unwrap();
    bed.husk(&["pause", "web"]).ok();
    bed.husk(&["cp", "web:/d/f", to]).ok();
    assert_eq!(fs::metadata(to).unwrap().size(), 3);
    bed.husk(&["cp", to, "web:/d/g"]).ok();
    bed.husk(&["unpause", "web"]).ok();
    assert_eq!(bed.exec_sh("web", "cat /d/g").ok().out(), "hi");
    bed.husk(&["create", "--name", "idle", BUSYBOX]).ok();
    let refused = ["cp idle:/bin", "not running", "husk start"];
    bed.husk(&["cp", "idle:/bin", to]).output().refused_with(125, &refused);
    bed.husk(&["stop", "-t", "0", "web"]).ok();
    bed.husk(&["cp", to, "web:/"]).output().refused_with(125, &["not running"]);
}

#[test]
fn copy_of_a_container_that_ends_is_told() {
    let bed = Bed::new();
    container(&bed);
    // Its input never ends, so neither does the copy: half of a file, and no more.
    bed.exec_sh("web", "head -c 8000000 /dev/zero > /d/large").ok();
    let mut tar = bed.husk(&["cp", "web:/d/large", "-"]).ok().stdout;
    tar.truncate(4_000_000);
    let mut copy = bed.husk(&["cp", "-", "web:/d/sub"]).stdin(tar).keep_stdin().spawn();
    let begun = || (bed.exec_sh("web", "test -e /d/sub/large").output().code == 0).then_some(());
    eventually("the file is begun", begun);
    bed.husk(&["rm", "-f", "web"]).ok();
    copy.close_stdin();
    copy.wait().refused_with(125, &["cp - web:/d/sub"]);
    bed.assert_nothing_left();
}
