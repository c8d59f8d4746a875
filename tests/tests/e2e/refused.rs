//! Words that make no sense: 125, one line, nothing left behind.

use std::fs;

use husk_tests::{BUSYBOX, Bed};

#[test]
fn words_that_husk_does_not_know_are_refused() {
    let bed = Bed::empty();
    let refuse = |words: &[&str], texts: &[&str]| {
        bed.husk(words).output().refused_with(125, texts);
    };
    refuse(&[], &["no command"]);
    refuse(&["frobnicate"], &["unknown command: frobnicate"]);
    refuse(&["pull", "x"], &["pull is not supported yet"]);
    refuse(&["run"], &["IMAGE"]);
    refuse(&["run", "--bogus", BUSYBOX], &["run", "unknown flag: --bogus"]);
    refuse(&["run", "-Z", BUSYBOX], &["run", "unknown flag: -Z"]);
    refuse(&["ps", "--bogus"], &["ps", "unknown flag: --bogus"]);
    for flag in
        ["--volume=/a:/b", "-p80:80", "--network=host", "--init", "--restart=always", "--gpus=all"]
    {
        let name = flag.split('=').next().unwrap();
        let name = if name.starts_with("--") { name } else { &name[..2] };
        refuse(&["run", flag, BUSYBOX], &["run", name, "not supported"]);
    }
    refuse(&["run", "-v", "/a:/b", BUSYBOX], &["-v", "not supported"]);
    refuse(&["exec"], &["CONTAINER"]);
    bed.assert_nothing_left();
}

#[test]
fn values_that_make_no_sense_are_refused() {
    let bed = Bed::new();
    let long = "x".repeat(64);
    for (flags, texts) in [
        (&["-m", "5m"][..], &["memory", "6m"][..]),
        (&["-m", "lots"], &["lots"]),
        (&["-m", "-1"], &["-1"]),
        (&["--cpus", "0"], &["cpus"]),
        (&["--cpus", "9999"], &["cpus", "host has"]),
        (&["--cpus", "many"], &["many"]),
        (&["--tmpfs", "relative"], &["tmpfs", "relative"]),
        (&["--tmpfs", "/"], &["tmpfs"]),
        (&["--tmpfs", "/x:size=lots"], &["lots"]),
        (&["--tmpfs", "/x:bogus"], &["bogus"]),
        (&["--name", "a b"], &["a b"]),
        (&["--name", "../up"], &["../up"]),
        (&["--name", ""], &["name"]),
        (&["-h", "no spaces please"], &["host name"]),
        (&["-h", &long], &["host name"]),
        (&["-w", "relative"], &["relative", "absolute"]),
        (&["-e", "=x"], &["=x"]),
        (&["--env-file", "/no/such/file"], &["/no/such/file"]),
        (&["-u", "root:nogroup:x"], &["nogroup:x"]),
        (&["-u", "-5"], &["-5"]),
        (&["-u", "99999999999"], &["99999999999"]),
        (&["--hypervisor", "xen"], &["xen"]),
        (&["--detach-keys", "ctrl-ctrl"], &["ctrl-ctrl"]),
        (&["--cidfile", "/no/such/folder/cid"], &["/no/such/folder/cid"]),
    ] {
        bed.run(flags, &["true"]).output().refused_with(125, texts);
    }
    let file = bed.path("env");
    fs::write(&file, "GOOD=1\nnot a name=2\n").unwrap();
    let file = file.display().to_string();
    bed.run(&["--env-file", &file], &["env"]).output().refused_with(125, &[&file, "line 2"]);
    bed.run(&[], &[""]).output().refused(125);
    for words in [
        &["logs", "--tail", "some", "x"][..],
        &["kill", "-s", "NOPE", "x"],
        &["ps", "-f", "nonsense"],
        &["ps", "-f", "color=red"],
        &["ps", "--format", "{{.Broken"],
        &["stop", "-t", "soon", "x"],
        &["load", "/no/such/file"],
        &["load", "oci:"],
        &["run", "oci:/no/such/folder"],
        &["run", "docker-archive:/no/such/file"],
    ] {
        bed.husk(words).output().refused(125);
    }
    bed.assert_nothing_left();
}

#[test]
fn names_of_what_is_not_there_are_refused() {
    let bed = Bed::empty();
    bed.husk(&["run", "nothing:here"]).output().refused_with(125, &["no such image: nothing:here"]);
    bed.husk(&["create", "Not//A_name"]).output().refused_with(125, &["no such image"]);
    for verb in ["start", "stop", "kill", "rm", "wait", "logs", "attach"] {
        let words = &["no such container: ghost", verb, "ghost"];
        bed.husk(&[verb, "ghost"]).output().refused_with(125, words);
    }
    bed.husk(&["exec", "ghost", "true"]).output().refused_with(125, &["no such container: ghost"]);
    bed.husk(&["rmi", "ghost"]).output().refused_with(125, &["no such image: ghost"]);
    let inspect = bed.husk(&["inspect", "ghost"]).output().code(125);
    assert_eq!(inspect.err(), "husk: inspect ghost: no such container or image: ghost");
    bed.assert_nothing_left();
}

#[test]
fn name_that_is_in_use_is_refused() {
    let bed = Bed::new();
    bed.husk(&["create", "--name", "web", BUSYBOX]).ok();
    let words = ["web", "in use"];
    bed.husk(&["create", "--name", "web", BUSYBOX]).output().refused_with(125, &words);
    bed.husk(&["run", "--name", "web", BUSYBOX]).output().refused_with(125, &words);
    assert_eq!(bed.containers(), ["web"]);
    // Of many that want a name at once, one gets it.
    let makers: Vec<_> =
        (0..6).map(|_| bed.husk(&["create", "--name", "prize", BUSYBOX]).spawn()).collect();
    let codes: Vec<i32> = makers.into_iter().map(|maker| maker.wait().code).collect();
    assert_eq!(codes.iter().filter(|&&code| code == 0).count(), 1, "{codes:?}");
    assert_eq!(bed.containers().len(), 2);
    bed.assert_idle();
}

#[test]
fn errors_are_json_when_asked_for() {
    let bed = Bed::empty();
    for words in [
        &["--error-format", "json", "run", "nothing:here"][..],
        &["run", "--error-format=json", "--bogus", "x"],
        &["--error-format", "json", "rm", "ghost"],
    ] {
        let output = bed.husk(words).output().code(125);
        let error: serde_json::Value = serde_json::from_slice(&output.stderr).unwrap();
        assert_eq!(error["code"], 125, "{error}");
        assert!(!error["message"].as_str().unwrap().is_empty(), "{error}");
        assert!(error.get("hint").is_some(), "{error}");
    }
}

#[test]
fn one_of_several_that_fails_does_not_keep_the_others() {
    let bed = Bed::new();
    for name in ["one", "two"] {
        bed.husk(&["create", "--name", name, BUSYBOX]).ok();
    }
    let output = bed.husk(&["rm", "one", "ghost", "two"]).output().code(125);
    assert_eq!(output.out(), "one\ntwo");
    assert_eq!(output.err(), "husk: rm ghost: no such container: ghost");
    bed.assert_nothing_left();
}

#[test]
fn folders_that_are_relative_are_refused() {
    let bed = Bed::empty();
    for name in ["HUSK_DATA_DIR", "HUSK_RUNTIME_DIR"] {
        let output = bed.husk(&["ps"]).env(name, "here").output();
        output.refused_with(125, &[name, "not an absolute path"]);
    }
}

#[test]
fn what_the_guest_refuses_is_told_with_its_flag() {
    let bed = Bed::new();
    let flags = ["--security-opt", "apparmor=strict"];
    let words = ["run busybox:latest", "process.apparmorProfile", "--security-opt apparmor="];
    bed.run(&flags, &["true"]).output().refused_with(125, &words);
    bed.run(&["--tty=false", "--privileged=false"], &["true"]).ok();
    bed.assert_nothing_left();
}
