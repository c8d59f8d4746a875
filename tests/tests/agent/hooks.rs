//! config.md, "POSIX-platform Hooks": each kind where the standard has it. Hooks write what they
//! see below the folder of the host's files, and a container reads it.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, FILES, Refusal, with_files};
use serde_json::{Value, json};

use crate::{bed_or_skip, output};

/// A shell script inside of the container.
pub fn inner_hook(script: &str) -> Value {
    json!({"path": "/bin/busybox", "args": ["sh", "-c", script]})
}

pub fn with_hooks(container: Container, hooks: Value) -> Container {
    container.with("/hooks", hooks)
}

/// Where the hooks of a container write, and what the file is called there.
pub fn file_of(container: &Container) -> (String, String) {
    let name = format!("seen-{}", container.id);
    (format!("{FILES}/{name}"), name)
}

/// A hook that runs until it is killed, as a process that can be told from others.
fn endless(bed: &Bed, id: &str) -> Value {
    bed.guest_hook(&format!("echo {id} > /dev/null; while true; do sleep 0.1; done"))
}

/// How many processes of the guest have this text in their command line.
pub fn processes_with(bed: &Bed, text: &str) -> usize {
    // The bracket keeps the search from finding itself.
    let (first, rest) = text.split_at(1);
    let script = format!("grep -l '[{first}]{rest}' /guest/[0-9]*/cmdline 2>/dev/null | wc -l");
    let container = Container::sh(&script)
        .mount(json!({"destination": "/guest", "source": "/proc", "options": ["rbind", "ro"]}));
    output(bed, &container).trim().parse().unwrap()
}

/// Creates and starts; what failed in doing so.
pub async fn begin(bed: &Bed, container: &Container) -> Result<(), (&'static str, Refusal)> {
    let stdio = bed.open_stdio(false).await.unwrap();
    bed.create(container, &stdio).await.map_err(|refusal| ("create", refusal))?;
    bed.start(&container.id).await.map_err(|refusal| ("start", refusal))
}

async fn end(bed: &Bed, container: &Container) {
    bed.signal(&container.id, "", 9, true).await.unwrap();
    bed.wait(&container.id, "").await.unwrap();
    bed.delete(&container.id).await.unwrap();
}

#[test]
fn hooks_before_the_program_run_in_the_order_of_the_standard() {
    let bed = bed_or_skip!();
    let container = with_files(Container::sh("true"));
    let (path, name) = file_of(&container);
    let guest = |word: &str| bed.guest_hook(&format!("echo {word} >> {path}"));
    let inner = inner_hook(&format!("echo startContainer >> /files/{name}"));
    let hooks = json!({
        "poststop": [guest("poststop")],
        "startContainer": [inner],
        "createContainer": [guest("createContainer-0"), guest("createContainer-1")],
        "createRuntime": [guest("createRuntime-0"), guest("createRuntime-1")],
        "prestart": [guest("prestart")],
    });
    let script = format!("echo program >> /files/{name}");
    let container = with_hooks(container, hooks).with("/process/args", json!(["sh", "-c", script]));
    output(bed, &container);
    assert_eq!(
        bed.written(&name),
        "prestart\ncreateRuntime-0\ncreateRuntime-1\ncreateContainer-0\ncreateContainer-1\n\
         startContainer\nprogram\npoststop\n"
    );
}

#[test]
fn runtime_hook_is_told_the_state_and_is_in_the_guests_namespaces() {
    let bed = bed_or_skip!();
    let container = Container::sh("true")
        .with("/annotations", json!({"org.example": "a \"quoted\" word", "two": "\u{e4}"}));
    let (path, name) = file_of(&container);
    let script = format!(
        "cat > {path}; echo >> {path}; cd /proc; \
         pid=$(grep -o '\"pid\":[0-9]*' {path} | cut -d: -f2); \
         for n in mnt pid net uts ipc cgroup; do \
         test \"$(readlink self/ns/$n)\" = \"$(readlink 1/ns/$n)\" && echo own $n >> {path}; done; \
         for n in mnt pid net uts ipc; do \
         test \"$(readlink $pid/ns/$n)\" = \"$(readlink 1/ns/$n)\" || echo other $n >> {path}; done; \
         ls -d {FILES} >> {path}"
    );
    let hooks = json!({"createRuntime": [bed.guest_hook(&script)]});
    output(bed, &with_hooks(container.clone(), hooks));
    let written = bed.written(&name);
    let (state, seen) = written.split_once('\n').unwrap();
    let state: Value = serde_json::from_str(state).unwrap();
    assert_eq!(state["ociVersion"], "1.2.0");
    assert_eq!(state["id"], container.id.as_str());
    assert_eq!(state["status"], "creating");
    assert!(state["pid"].as_u64().unwrap() > 1);
    assert_eq!(state["annotations"], container.spec["annotations"]);
    assert_eq!(
        seen,
        format!(
            "own mnt\nown pid\nown net\nown uts\nown ipc\nown cgroup\nother mnt\nother pid\n\
             other net\nother uts\nother ipc\n{FILES}\n"
        )
    );
}

#[test]
fn bundle_of_the_state_holds_the_spec_and_goes_with_the_container() {
    let bed = bed_or_skip!();
    let container = Container::sh("true").with("/annotations", json!({"kept": "in the bundle"}));
    let (path, name) = file_of(&container);
    let script = format!(
        "bundle=$(grep -o '\"bundle\":\"[^\"]*' | cut -d'\"' -f4); \
         echo $bundle > {path}; cat $bundle/config.json >> {path}"
    );
    let hooks = json!({"prestart": [bed.guest_hook(&script)]});
    let container = with_hooks(container, hooks);
    output(bed, &container);
    let written = bed.written(&name);
    let (bundle, config) = written.split_once('\n').unwrap();
    assert!(bundle.starts_with('/') && bundle.ends_with(&container.id), "{bundle}");
    assert_eq!(serde_json::from_str::<Value>(config).unwrap(), container.spec);
    let look = Container::sh(&format!("test -e /guest/{} || echo gone", container.id)).mount(
        json!({"destination": "/guest", "source": "/run/husk/bundles", "options": ["bind"]}),
    );
    assert_eq!(output(bed, &look), "gone\n");
}

#[test]
fn create_container_hook_is_in_the_containers_namespaces_with_the_guests_root() {
    let bed = bed_or_skip!();
    let container = Container::sh("for n in mnt pid net uts; do readlink /proc/self/ns/$n; done");
    let (path, name) = file_of(&container);
    let script = format!(
        "cat > {path}; echo >> {path}; hostname >> {path}; ls -d {FILES} >> {path}; \
         for n in mnt pid net uts; do readlink /proc/self/ns/$n >> {path}; done"
    );
    let hooks = json!({"createContainer": [bed.guest_hook(&script)]});
    let namespaces = output(bed, &with_hooks(container, hooks));
    let written = bed.written(&name);
    let (state, seen) = written.split_once('\n').unwrap();
    let state: Value = serde_json::from_str(state).unwrap();
    assert_eq!((&state["status"], &state["pid"]), (&json!("creating"), &json!(1)));
    assert_eq!(seen, format!("inside\n{FILES}\n{namespaces}"));
}

#[test]
fn create_container_hook_can_add_files_and_mounts_to_the_root() {
    let bed = bed_or_skip!();
    let script = "bundle=$(grep -o '\"bundle\":\"[^\"]*' | cut -d'\"' -f4); root=$bundle/rootfs; \
                  echo made > $root/etc/made; mount -t tmpfs -o mode=711 hook $root/var/data && \
                  echo mounted > $root/var/data/x";
    let hooks = json!({"createContainer": [bed.guest_hook(script)]});
    let container =
        Container::sh("cat /etc/made /var/data/x; stat -c %a /var/data; touch /etc/x 2>&1; :")
            .with("/root/readonly", json!(true));
    assert_eq!(
        output(bed, &with_hooks(container, hooks)),
        "made\nmounted\n711\ntouch: /etc/x: Read-only file system\n"
    );
    // It was the container's mount namespace, not the guest's.
    let guest = Container::sh("grep -c ' hook ' /guest; :")
        .mount(json!({"destination": "/guest", "source": "/proc/1/mounts", "options": ["bind"]}));
    assert_eq!(output(bed, &guest), "0\n");
}

#[test]
fn start_container_hook_is_inside_as_the_process_will_be() {
    let bed = bed_or_skip!();
    let container = with_files(Container::sh("cat /tmp/state; echo; echo $$"))
        .with("/process/user", json!({"uid": 33, "gid": 34}));
    let hook = inner_hook("cat > /tmp/state; (echo; id -u; pwd; hostname; ls /) >> /tmp/state");
    let said = output(bed, &with_hooks(container.clone(), json!({"startContainer": [hook]})));
    let (state, seen) = said.split_once('\n').unwrap();
    let state: Value = serde_json::from_str(state).unwrap();
    assert_eq!(state["id"], container.id.as_str());
    assert_eq!((&state["status"], &state["pid"]), (&json!("created"), &json!(1)));
    let expected = "33\n/\ninside\nbin\ndev\netc\nfiles\nmasked\nproc\nsys\ntmp\nvar\n\n1\n";
    assert_eq!(seen, expected);
}

#[test]
fn start_container_hook_waits_for_the_start() {
    let bed = bed_or_skip!();
    let container = with_files(Container::new(&["sleep", "1000"]));
    let (_, name) = file_of(&container);
    let hook = inner_hook(&format!("echo hook >> /files/{name}"));
    let container = with_hooks(container, json!({"startContainer": [hook]}));
    bed.block_on(bed.bring(&name, b"before\n", 0o644)).unwrap();
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
    });
    assert_eq!(bed.written(&name), "before\n");
    bed.block_on(bed.start(&container.id)).unwrap();
    assert_eq!(bed.written(&name), "before\nhook\n");
    bed.block_on(end(bed, &container));
}

#[test]
fn poststart_hook_finds_the_program_running() {
    let bed = bed_or_skip!();
    let container = Container::new(&["sleep", "1234"]);
    let (path, name) = file_of(&container);
    let script = format!(
        "cat > {path}; echo >> {path}; pid=$(grep -o '\"pid\":[0-9]*' {path} | cut -d: -f2); \
         tr '\\0' ' ' < /proc/$pid/cmdline >> {path}"
    );
    let container = with_hooks(container, json!({"poststart": [bed.guest_hook(&script)]}));
    bed.block_on(begin(bed, &container)).unwrap();
    let written = bed.written(&name);
    let (state, command) = written.split_once('\n').unwrap();
    let state: Value = serde_json::from_str(state).unwrap();
    assert_eq!(state["status"], "running");
    assert_eq!(command, "sleep 1234 ");
    bed.block_on(end(bed, &container));
}

#[test]
fn poststop_hook_runs_when_all_of_the_container_is_gone() {
    let bed = bed_or_skip!();
    let container = Container::new(&["sleep", "1000"]);
    let (path, name) = file_of(&container);
    let script = format!(
        "cat > {path}; echo >> {path}; test -e /sys/fs/cgroup/husk/{} || echo gone >> {path}",
        container.id
    );
    let container = with_hooks(container, json!({"poststop": [bed.guest_hook(&script)]}));
    bed.block_on(async {
        begin(bed, &container).await.unwrap();
        end(bed, &container).await;
    });
    let written = bed.written(&name);
    let (state, seen) = written.split_once('\n').unwrap();
    let state: Value = serde_json::from_str(state).unwrap();
    assert_eq!(state["status"], "stopped");
    assert_eq!(state.get("pid"), None);
    assert_eq!(seen, "gone\n");
}

#[test]
fn hook_has_its_arguments_and_environment_and_no_more() {
    let bed = bed_or_skip!();
    let container = with_files(Container::sh("true"));
    let (path, name) = file_of(&container);
    let script = |path: &str| {
        format!(
            "(echo $0 $1 $2; tr '\\0' '\\n' < /proc/self/environ; ls /proc/self/fd | wc -l) >> {path}"
        )
    };
    let mut guest = bed.guest_hook(&script(&path));
    let mut inner = inner_hook(&script(&format!("/files/{name}")));
    for hook in [&mut guest, &mut inner] {
        hook["args"].as_array_mut().unwrap().extend([json!("name"), json!("a b"), json!("c")]);
        hook["env"] = json!(["ONE=1", "TWO=2 words"]);
    }
    let plain = bed.guest_hook(&script(&path));
    let hooks = json!({"prestart": [guest], "createContainer": [plain], "startContainer": [inner]});
    output(bed, &with_hooks(container, hooks));
    // The three streams, and the folder that is listed.
    let full = "name a b c\nONE=1\nTWO=2 words\n4\n";
    assert_eq!(bed.written(&name), format!("{full}sh\n4\n{full}"));
}

#[test]
fn large_state_that_nobody_reads_and_endless_output_block_nothing() {
    let bed = bed_or_skip!();
    let talks = "i=0; while test $i -lt 3000; do echo a line of some sixty characters that nobody wants $i; \
                 i=$((i+1)); done";
    let hooks = json!({
        "createRuntime": [bed.guest_hook(talks)],
        "createContainer": [bed.guest_hook(talks)],
        "startContainer": [inner_hook(talks)],
    });
    let container =
        Container::sh("echo through").with("/annotations", json!({"large": "x".repeat(1 << 20)}));
    assert_eq!(output(bed, &with_hooks(container, hooks)), "through\n");
}

/// Everything that a host may ask for, in another container, while one hangs in a hook.
async fn use_another(bed: &Bed) {
    let other = Container::new(&["sleep", "1000"]);
    begin(bed, &other).await.unwrap();
    let process = husk_tests::agent_bed::process(&["echo", "answered"]);
    assert_eq!(bed.run_exec(&other.id, &process).await.unwrap().stdout, "answered\n");
    assert!(bed.list().await.unwrap().contains(&other.id));
    end(bed, &other).await;
}

#[test]
fn hook_that_sleeps_delays_no_other_container() {
    let bed = bed_or_skip!();
    for kind in ["createRuntime", "createContainer", "startContainer", "poststart"] {
        let container = with_files(Container::sh("true"));
        let (path, name) = file_of(&container);
        let path = if kind == "startContainer" { format!("/files/{name}") } else { path };
        let script = format!("while ! test -e {path}; do sleep 0.1; done");
        let hook =
            if kind == "startContainer" { inner_hook(&script) } else { bed.guest_hook(&script) };
        let container = with_hooks(container, json!({kind: [hook]}));
        bed.block_on(async {
            let begin = begin(bed, &container);
            let meanwhile = async {
                use_another(bed).await;
                bed.bring(&name, b"go on\n", 0o644).await.unwrap();
            };
            let (begun, ()) = tokio::join!(begin, meanwhile);
            begun.unwrap();
            bed.wait(&container.id, "").await.unwrap();
            bed.delete(&container.id).await.unwrap();
        });
    }
}

#[test]
fn container_can_be_killed_and_deleted_while_its_poststart_hook_hangs() {
    let bed = bed_or_skip!();
    let container = Container::new(&["sleep", "1000"]);
    let mark = format!("mark-{}", container.id);
    let container = with_hooks(container, json!({"poststart": [endless(bed, &mark)]}));
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        let meanwhile = async {
            // Refused until the program runs.
            while bed
                .run_exec(&container.id, &husk_tests::agent_bed::process(&["true"]))
                .await
                .is_err()
            {}
            end(bed, &container).await;
        };
        let (started, ()) = tokio::join!(bed.start(&container.id), meanwhile);
        assert_eq!(started.unwrap_err().kind, ErrorKind::WrongState);
    });
    assert_eq!(processes_with(bed, &mark), 0);
}

#[test]
fn id_is_free_again_when_a_container_with_a_hanging_hook_is_deleted() {
    let bed = bed_or_skip!();
    let container = Container::new(&["true"]);
    let hooks = json!({"poststart": [endless(bed, &container.id)]});
    let container = with_hooks(container, hooks);
    bed.block_on(async {
        for _ in 0..5 {
            bed.create(&container, &Default::default()).await.unwrap();
            let start = bed.start(&container.id);
            let ended = async {
                bed.wait(&container.id, "").await.unwrap();
                bed.delete(&container.id).await.unwrap();
            };
            let (started, ()) = tokio::join!(start, ended);
            assert!(started.is_err(), "its hook has run to its end");
        }
    });
}

#[test]
fn container_can_be_killed_while_its_start_container_hook_hangs() {
    let bed = bed_or_skip!();
    let hook = inner_hook("while true; do sleep 0.1; done");
    let container = with_hooks(Container::sh("true"), json!({"startContainer": [hook]}));
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        bed.create(&container, &stdio).await.unwrap();
        // The start's own answer is of no interest: the container is gone by then.
        let _ = tokio::join!(bed.start(&container.id), async {
            bed.signal(&container.id, "", 9, false).await.unwrap();
            assert_eq!(bed.wait(&container.id, "").await.unwrap().0, 128 + 9);
        });
        bed.delete(&container.id).await.unwrap();
    });
}

#[test]
fn shutdown_waits_for_no_hook() {
    if crate::bed().is_none() {
        return;
    }
    let bed = Bed::boot(std::path::Path::new(env!("CARGO_TARGET_TMPDIR"))).unwrap();
    let container = Container::sh("true");
    let hook = bed.guest_hook("sleep 100000");
    let container = with_hooks(container, json!({"createRuntime": [hook], "poststop": [hook]}));
    bed.block_on(async {
        let stdio = bed.open_stdio(false).await.unwrap();
        let shut_down = async {
            while !bed.list().await.unwrap().contains(&container.id) {}
            bed.shut_down().await
        };
        let (created, shut_down) = tokio::join!(bed.create(&container, &stdio), shut_down);
        assert!(created.is_err());
        shut_down.unwrap();
    });
}
