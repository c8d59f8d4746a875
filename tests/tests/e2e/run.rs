//! `husk run`: exit codes, environment, users, folders, names.

use std::fs;

use husk_tests::{BUSYBOX, Bed};

#[test]
fn output_and_exit_code_are_the_commands_own() {
    let bed = Bed::new();
    let output = bed.run(&[], &["echo", "hello", "world"]).ok();
    assert_eq!((output.out().as_str(), output.err().as_str()), ("hello world", ""));
    let output = bed.sh(&[], "echo out; echo err >&2; exit 7").output().code(7);
    assert_eq!((output.out().as_str(), output.err().as_str()), ("out", "err"));
    bed.assert_nothing_left();
}

#[test]
fn command_that_is_not_there_is_127_and_one_that_cannot_run_is_126() {
    let bed = Bed::new();
    let missing = ["executable file not found"];
    bed.run(&[], &["no-such-command"]).output().refused_with(127, &missing);
    bed.run(&[], &["/no/such/command"]).output().refused_with(127, &["no such file or directory"]);
    bed.run(&[], &["/etc/passwd"]).output().refused_with(126, &["permission denied"]);
    let folder = bed.run(&[], &["/etc"]).output().refused(126);
    let words = ["permission denied", "is a directory"];
    assert!(words.iter().any(|word| folder.contains(word)), "{folder}");
    bed.assert_nothing_left();
}

#[test]
fn process_that_dies_of_a_signal_is_128_and_the_signal() {
    let bed = Bed::new();
    bed.sh(&[], "sh -c 'kill -TERM $$'; exit $?").output().code(143);
    // The first process of a pid namespace takes no signal that it does not handle, SIGKILL and
    // SIGSTOP included, from inside: it comes from outside.
    bed.start_sh("victim", "sleep 1000");
    bed.husk(&["kill", "-s", "KILL", "victim"]).ok();
    assert_eq!(bed.husk(&["wait", "victim"]).ok().out(), "137");
    assert_eq!(bed.inspect("victim")["State"]["ExitCode"], 137);
}

#[test]
fn environment_is_images_then_files_then_flags() {
    let bed = Bed::new();
    let file = bed.path("env");
    fs::write(&file, "# a comment\n\nFROM_FILE=one two\nBOTH=file\nFROM_HERE\nNOT_SET_ANYWHERE\n")
        .unwrap();
    let file = file.display().to_string();
    let flags = ["--env-file", &file, "-e", "BOTH=flag", "-e", "FROM_HERE_TOO", "-e", "EMPTY="];
    let output =
        bed.run(&flags, &["env"]).env("FROM_HERE", "here").env("FROM_HERE_TOO", "here too").ok();
    let env = output.out();
    let lines: Vec<&str> = env.lines().collect();
    for wanted in [
        "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin",
        "FROM_FILE=one two",
        "BOTH=flag",
        "FROM_HERE=here",
        "FROM_HERE_TOO=here too",
        "EMPTY=",
        "HOME=/root",
    ] {
        assert!(lines.contains(&wanted), "no {wanted} in\n{env}");
    }
    assert!(lines.iter().any(|line| line.starts_with("HOSTNAME=")), "{env}");
    assert!(!env.contains("NOT_SET_ANYWHERE") && !env.contains("HUSK_"), "{env}");
}

#[test]
fn working_directory_is_made_when_it_is_not_there() {
    let bed = Bed::new();
    assert_eq!(bed.run(&["-w", "/etc"], &["pwd"]).ok().out(), "/etc");
    assert_eq!(bed.run(&["-w", "/new/deep"], &["pwd"]).ok().out(), "/new/deep");
}

#[test]
fn user_is_found_by_name_and_number() {
    let bed = Bed::new();
    let id = "echo $(id -u) $(id -g) $(id -G)";
    for (user, ids) in [
        ("user", "1000 1000 1000 29"),
        ("1000", "1000 1000 1000 29"),
        ("1234:4321", "1234 4321 4321"),
        ("user:daemon", "1000 1 1"),
        ("nobody", "65534 65534 65534"),
    ] {
        assert_eq!(bed.sh(&["-u", user], id).ok().out(), ids, "{user}");
    }
    let home = bed.sh(&["-u", "user"], "echo $HOME").ok();
    assert_eq!(home.out(), "/home");
    bed.sh(&["-u", "stranger"], id).output().refused_with(125, &["stranger"]);
    bed.sh(&["-u", "user:strangers"], id).output().refused_with(125, &["strangers"]);
    bed.assert_nothing_left();
}

#[test]
fn entrypoint_and_command_are_joined_as_dockers() {
    let bed = Bed::new();
    let image = husk_tests::bed::busybox()
        .set("Entrypoint", serde_json::json!(["echo", "entry"]))
        .set("Cmd", serde_json::json!(["command"]));
    bed.load(&image, "entry", "latest");
    let run = |flags: &[&str], words: &[&str]| {
        bed.husk(&[&["run", "--rm"], flags, &["entry"], words].concat()).output()
    };
    assert_eq!(run(&[], &[]).code(0).out(), "entry command");
    assert_eq!(run(&[], &["mine"]).code(0).out(), "entry mine");
    assert_eq!(run(&["--entrypoint", "expr"], &["1", "+", "2"]).code(0).out(), "3");
    run(&["--entrypoint", ""], &[]).refused_with(125, &["no command"]);
}

#[test]
fn images_user_and_working_directory_and_stop_signal_count() {
    let bed = Bed::new();
    let image = husk_tests::bed::busybox()
        .set("User", serde_json::json!("user"))
        .set("WorkingDir", serde_json::json!("/var/tmp"))
        .set("Env", serde_json::json!(["GREETING=hi", "PATH=/bin:/usr/bin"]))
        .set("StopSignal", serde_json::json!("SIGUSR1"))
        .set("Cmd", serde_json::json!(["sh", "-c", "echo $(id -un) $PWD $GREETING $PATH"]));
    bed.load(&image, "settled", "1");
    let output = bed.husk(&["run", "--rm", "settled:1"]).ok();
    assert_eq!(output.out(), "user /var/tmp hi /bin:/usr/bin");
    let wait = "trap 'echo asked; exit 3' USR1; echo ready; while :; do sleep 0.1; done";
    bed.husk(&["run", "-d", "--name", "settled", "settled:1", "sh", "-c", wait]).ok();
    crate::life::await_log(&bed, "settled", "ready");
    bed.husk(&["stop", "settled"]).ok();
    assert_eq!(bed.inspect("settled")["State"]["ExitCode"], 3);
}

#[test]
fn detached_run_prints_the_id_and_nothing_else() {
    let bed = Bed::new();
    let cidfile = bed.path("cid");
    let words = [
        "run",
        "-d",
        "--name",
        "web",
        "--cidfile",
        cidfile.to_str().unwrap(),
        BUSYBOX,
        "sleep",
        "1000",
    ];
    let output = bed.husk(&words).ok();
    let id = output.out();
    assert!(id.len() == 64 && id.chars().all(|c| c.is_ascii_hexdigit()), "{id}");
    assert_eq!(output.stdout.len(), 65);
    assert_eq!(output.err(), "");
    assert_eq!(fs::read_to_string(&cidfile).unwrap(), id);
    assert_eq!(bed.inspect("web")["Id"], id.as_str());
    assert_eq!(bed.inspect(&id[..12])["Name"], "/web");
    // The file is there now: a second container with it is refused before it is made.
    bed.husk(&words).output().refused_with(125, &["cid"]);
    assert_eq!(bed.containers(), ["web"]);
}

#[test]
fn container_that_is_to_be_removed_is_gone_at_the_end_however_it_ended() {
    let bed = Bed::new();
    bed.sh(&["--name", "one"], "exit 3").output().code(3);
    bed.assert_nothing_left();
    bed.husk(&["run", "-d", "--rm", "--name", "two", BUSYBOX, "sleep", "1000"]).ok();
    bed.husk(&["kill", "two"]).ok();
    let gone = || bed.containers().is_empty().then_some(());
    husk_tests::wait::eventually("two is removed", gone);
    bed.assert_nothing_left();
}

#[test]
fn twenty_in_a_row() {
    let bed = Bed::new();
    for number in 0..20 {
        let text = format!("run {number}");
        assert_eq!(bed.run(&[], &["echo", &text]).ok().out(), text);
    }
    bed.assert_nothing_left();
}

#[test]
fn four_at_once() {
    let bed = Bed::new();
    let running: Vec<_> = (0..4)
        .map(|number| bed.sh(&[], &format!("echo {number}; exit {number}")).spawn())
        .collect();
    for (number, run) in (0..4).zip(running) {
        assert_eq!(run.wait().code(number).out(), number.to_string());
    }
    bed.assert_nothing_left();
}

#[test]
fn image_is_loaded_by_the_way_when_it_says_where_it_is() {
    let bed = Bed::new();
    let layout = bed.path("images/busybox");
    let word = format!("oci:{}:latest", layout.display());
    assert_eq!(bed.husk(&["run", "--rm", &word, "echo", "x"]).ok().out(), "x");
    let word = format!("oci:{}:nope", layout.display());
    bed.husk(&["run", "--rm", &word, "echo", "x"]).output().refused_with(125, &["nope"]);
}

#[test]
fn timings_say_where_the_time_went() {
    let bed = Bed::new();
    let output = bed.run(&["--timings"], &["true"]).ok();
    let text = output.err();
    for phase in
        ["client and monitor", "VM start", "kernel", "agent", "container", "tear-down", "total"]
    {
        let line = text.lines().find(|line| line.starts_with(phase));
        let line = line.unwrap_or_else(|| panic!("no {phase} in\n{text}"));
        assert!(line.ends_with(" ms"), "{line}");
    }
}
