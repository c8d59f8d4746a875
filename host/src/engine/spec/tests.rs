//! The spec that comes out of a record, field by field, against docker's.

use std::collections::BTreeMap;

use jiff::Timestamp;
use oci_spec::runtime::Spec;
use serde_json::{Value, json};

use super::*;
use crate::engine::record::{
    Device, Filesystem, ImageUse, Ipc, Notes, Process, Resources, Rlimit, Surroundings, TmpfsMount,
};

fn config() -> Config {
    Config {
        id: "a".repeat(64).parse().unwrap(),
        name: "web".to_owned(),
        created: Timestamp::UNIX_EPOCH,
        image: ImageUse { reference: "x".into(), id: "y".into(), disk: "/z".into() },
        process: Process {
            args: vec!["sh".into()],
            env: vec!["PATH=/bin".into()],
            user: String::new(),
            cwd: "/".into(),
            terminal: false,
            stdin_open: false,
            stdin_once: false,
            stop_signal: 15,
            stop_timeout_s: None,
            groups: Vec::new(),
            rlimits: Vec::new(),
            oom_score_adj: 0,
        },
        resources: Resources::default(),
        filesystem: Filesystem::default(),
        hostname: "web-1".into(),
        auto_remove: false,
        hypervisor: "auto".into(),
        security: Security::default(),
        surroundings: Surroundings::default(),
        notes: Notes::default(),
    }
}

/// The spec of a changed record, which the types of the runtime-spec understand.
fn spec(change: impl FnOnce(&mut Config)) -> Value {
    let mut config = config();
    change(&mut config);
    let spec = container_spec(&config, None).unwrap();
    serde_json::from_value::<Spec>(spec.clone()).unwrap();
    spec
}

fn mount<'a>(spec: &'a Value, destination: &str) -> Option<&'a Value> {
    spec["mounts"].as_array().unwrap().iter().find(|mount| mount["destination"] == destination)
}

fn options(spec: &Value, destination: &str) -> Vec<String> {
    let options = mount(spec, destination).unwrap()["options"].as_array().unwrap();
    options.iter().map(|option| option.as_str().unwrap().to_owned()).collect()
}

#[test]
fn what_was_not_asked_for_is_dockers_default() {
    let spec = spec(|_| {});
    let linux = &spec["linux"];
    assert_eq!(linux["resources"], json!({}));
    assert_eq!(linux["seccomp"], Value::Null, "the agent's own profile");
    assert_eq!(linux["maskedPaths"].as_array().unwrap().len(), MASKED_PATHS.len());
    assert_eq!(linux["sysctl"]["net.ipv4.ip_unprivileged_port_start"], "0");
    assert_eq!(spec["process"]["capabilities"]["bounding"], json!(capabilities::DEFAULT));
    for field in ["noNewPrivileges", "rlimits", "oomScoreAdj", "apparmorProfile", "selinuxLabel"] {
        assert_eq!(spec["process"][field], Value::Null, "{field}");
    }
    assert_eq!(spec["process"]["user"], json!({ "uid": 0, "gid": 0 }));
    assert!(options(&spec, "/dev/shm").contains(&"size=65536k".to_owned()));
    assert_eq!(spec["annotations"], Value::Null);
}

#[test]
fn privileged_container_has_everything_of_the_guest() {
    let spec = spec(|config| config.security.privileged = true);
    let linux = &spec["linux"];
    assert_eq!(spec["process"]["capabilities"]["effective"], json!(capabilities::ALL.as_slice()));
    assert_eq!(linux["seccomp"], json!({ "defaultAction": "SCMP_ACT_ALLOW" }));
    assert_eq!((&linux["maskedPaths"], &linux["readonlyPaths"]), (&Value::Null, &Value::Null));
    assert_eq!(linux["resources"]["devices"], json!([{ "allow": true, "access": "rwm" }]));
    for path in ["/sys", "/sys/fs/cgroup"] {
        assert!(!options(&spec, path).contains(&"ro".to_owned()), "{path}");
    }
    assert_eq!(mount(&spec, "/dev").unwrap()["type"], "devtmpfs");
}

#[test]
fn limits_are_those_that_were_asked_for() {
    let spec = spec(|config| {
        config.resources = Resources {
            memory_bytes: 64 << 20,
            memory_swap_bytes: -1,
            memory_reservation_bytes: 32 << 20,
            milli_cpus: 1500,
            cpu_shares: 512,
            cpuset_cpus: "0-1".into(),
            cpuset_mems: "0".into(),
            pids_limit: 100,
            blkio_weight: 300,
            ..Resources::default()
        };
    });
    let wanted = json!({
        "memory": { "limit": 64 << 20, "swap": -1, "reservation": 32 << 20 },
        "cpu": {
            "quota": 150_000, "period": 100_000, "shares": 512, "cpus": "0-1", "mems": "0",
        },
        "pids": { "limit": 100 },
        "blockIO": { "weight": 300 },
    });
    assert_eq!(spec["linux"]["resources"], wanted);
    let by_quota = Resources { cpu_quota_us: 20_000, cpu_period_us: 50_000, ..Default::default() };
    assert_eq!(limits(&by_quota), json!({ "cpu": { "quota": 20_000, "period": 50_000 } }));
}

#[test]
fn process_gets_its_rights_and_limits() {
    let spec = spec(|config| {
        config.security.no_new_privileges = true;
        config.security.apparmor_profile = "web".into();
        config.process.oom_score_adj = -5;
        config.process.rlimits = vec![Rlimit { name: "nofile".into(), soft: 10, hard: -1 }];
    });
    let process = &spec["process"];
    assert_eq!(process["noNewPrivileges"], true);
    assert_eq!(process["apparmorProfile"], "web");
    assert_eq!(process["oomScoreAdj"], -5);
    assert_eq!(
        process["rlimits"],
        json!([{ "type": "RLIMIT_NOFILE", "soft": 10, "hard": u64::MAX }])
    );
}

#[test]
fn groups_are_numbers_of_the_spec_or_names_for_the_agent() {
    let user = |user: &str, groups: &[&str]| {
        let spec = spec(|config| {
            config.process.user = user.to_owned();
            config.process.groups = groups.iter().map(ToString::to_string).collect();
        });
        spec["process"]["user"].clone()
    };
    let numbers = user("", &["5", "6"]);
    assert_eq!(numbers, json!({ "uid": 0, "gid": 0, "additionalGids": [5, 6] }));
    assert_eq!(user("web", &["audio", "tape"])["username"], "web::audio,tape");
    assert_eq!(user("web:logs", &["audio"])["username"], "web:logs:audio");
    assert_eq!(user("", &["audio"])["username"], "::audio");
}

#[test]
fn further_process_has_what_its_container_has_and_more_when_privileged() {
    let mut config = config();
    config.security.cap_add = vec!["CAP_SYS_TIME".into()];
    config.security.no_new_privileges = true;
    config.process.oom_score_adj = 7;
    let exec = |privilege| process_spec(&config.process, &config.security, privilege, None);
    let plain = exec(Privilege::Container);
    let set = plain["capabilities"]["bounding"].as_array().unwrap();
    assert_eq!(set.len(), 15);
    assert!(set.contains(&json!("CAP_SYS_TIME")));
    assert_eq!((&plain["noNewPrivileges"], &plain["oomScoreAdj"]), (&json!(true), &json!(7)));
    assert_eq!(
        exec(Privilege::All)["capabilities"]["effective"],
        json!(capabilities::ALL.as_slice())
    );
}

#[test]
fn profile_is_read_with_the_containers_capabilities() {
    let profile = json!({
        "defaultAction": "SCMP_ACT_ERRNO",
        "syscalls": [{
            "names": ["mount"], "action": "SCMP_ACT_ALLOW", "includes": { "caps": ["CAP_SYS_ADMIN"] },
        }],
    });
    let rules = |cap_add: &[&str]| {
        let spec = spec(|config| {
            config.security.seccomp = Seccomp::Profile(profile.clone());
            config.security.cap_add = cap_add.iter().map(ToString::to_string).collect();
        });
        spec["linux"]["seccomp"]["syscalls"].as_array().unwrap().len()
    };
    assert_eq!((rules(&[]), rules(&["CAP_SYS_ADMIN"])), (0, 1));
    let mut config = config();
    config.security.seccomp = Seccomp::Profile(json!({}));
    let error = container_spec(&config, None).unwrap_err().to_string();
    assert!(error.contains("seccomp profile"), "{error}");
}

#[test]
fn devices_come_as_a_node_and_a_rule() {
    let spec = spec(|config| {
        config.security.devices = vec![Device {
            source: "/dev/net/tun".into(),
            path: "/dev/tap".into(),
            access: "rw".into(),
        }];
        config.security.device_rules = vec!["c 10:229 rwm".into()];
    });
    let node = &spec["linux"]["devices"][0];
    assert_eq!(
        (&node["path"], &node["major"], &node["minor"]),
        (&json!("/dev/tap"), &json!(10), &json!(200))
    );
    let rules = spec["linux"]["resources"]["devices"].as_array().unwrap();
    assert_eq!(rules.len(), 3);
    assert_eq!(rules[0], json!({ "allow": false, "access": "rwm" }));
    assert_eq!(rules[2]["minor"], 229);
}

#[test]
fn file_systems_of_the_users_choice_are_mounted() {
    let spec = spec(|config| {
        config.filesystem = Filesystem {
            read_only: true,
            tmpfs: BTreeMap::from([("/scratch".to_owned(), vec!["size=1m".to_owned()])]),
            tmpfs_mounts: vec![TmpfsMount {
                target: "/x".into(),
                size_bytes: 4096,
                mode: 0o1770,
                read_only: true,
            }],
            shm_bytes: 1000,
        };
    });
    assert_eq!(spec["root"]["readonly"], true);
    assert!(options(&spec, "/scratch").contains(&"size=1m".to_owned()));
    assert_eq!(options(&spec, "/x"), ["nosuid", "noexec", "nodev", "ro", "size=4096", "mode=1770"]);
    assert!(options(&spec, "/dev/shm").contains(&"size=1000".to_owned()));
}

#[test]
fn surroundings_are_files_and_fields() {
    let mut config = config();
    config.surroundings = Surroundings {
        domainname: "example.com".into(),
        dns: vec!["10.0.0.1".into(), "::1".into()],
        dns_search: vec!["a.b".into(), "c".into()],
        dns_options: vec!["ndots:2".into()],
        extra_hosts: vec!["db:fe80::1".into()],
        sysctls: BTreeMap::from([
            ("net.core.somaxconn".to_owned(), "99".to_owned()),
            ("net.ipv4.ip_unprivileged_port_start".to_owned(), "7".to_owned()),
        ]),
        ipc: Ipc::None,
        ..Surroundings::default()
    };
    config.notes.annotations.insert("a".into(), "b".into());
    let spec = container_spec(&config, None).unwrap();
    assert_eq!(spec["domainname"], "example.com");
    assert_eq!(spec["annotations"], json!({ "a": "b" }));
    assert_eq!(spec["linux"]["sysctl"]["net.core.somaxconn"], "99");
    assert_eq!(spec["linux"]["sysctl"]["net.ipv4.ip_unprivileged_port_start"], "7");
    assert!(mount(&spec, "/dev/shm").is_none());
    let files = sandbox_files(&config);
    assert!(files[0].content.contains("fe80::1\tdb\n"), "{}", files[0].content);
    assert!(files[0].content.ends_with("127.0.1.1\tweb-1.example.com web-1\n"));
    assert_eq!(
        files[2].content,
        "nameserver 10.0.0.1\nnameserver ::1\nsearch a.b c\noptions ndots:2\n"
    );
}

#[test]
fn record_of_an_older_husk_is_read_with_defaults() {
    let old = json!({
        "id": "a".repeat(64), "name": "web", "created": "2026-01-01T00:00:00Z",
        "image": { "reference": "x", "id": "y", "disk": "/z" },
        "process": {
            "args": ["sh"], "env": [], "user": "", "cwd": "/", "terminal": false,
            "stdin_open": false, "stdin_once": false, "stop_signal": 15,
        },
        "resources": { "memory_bytes": 1, "milli_cpus": 2 },
        "filesystem": { "read_only": false, "tmpfs": {} },
        "hostname": "h", "auto_remove": false, "hypervisor": "auto",
    });
    let config: Config = serde_json::from_value(old).unwrap();
    assert_eq!(config.security, Security::default());
    assert_eq!((config.resources.milli_cpus, config.resources.pids_limit), (2, 0));
    assert!(container_spec(&config, None).is_ok());
}
