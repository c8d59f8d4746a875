//! Roots that mean harm, made by a container on the disk that the next container has as its layer:
//! what it finds there is as an image could bring it.

use husk_protocols::error::ErrorKind;
use husk_tests::agent_bed::{Bed, Container, DISK, Stdio, process};
use serde_json::json;

use crate::{bed_or_skip, output, refusal};

/// Leaves the disk as it was found.
pub struct Clean<'a>(pub &'a Bed);

impl Drop for Clean<'_> {
    fn drop(&mut self) {
        let disk = json!({"destination": "/layer", "type": "ext4", "source": "/dev/vdc"});
        let clean = Container::sh("rm -rf /layer/upper /layer/work").mount(disk);
        let ended = self.0.run(&clean);
        if !std::thread::panicking() {
            assert_eq!(ended.unwrap().code, 0);
        }
    }
}

/// Makes a root with this script.
fn with_root<'a>(bed: &'a Bed, script: &str) -> Clean<'a> {
    let clean = Clean(bed);
    output(bed, &Container::sh(script).disk(DISK));
    clean
}

fn on_disk(script: &str) -> Container {
    Container::sh(script).disk(DISK)
}

fn as_user(name: &str) -> Container {
    on_disk("stat -c %u /proc/self/; echo $HOME")
        .with("/process/user", json!({"uid": 0, "gid": 0, "username": name}))
}

#[test]
fn user_database_that_is_no_plain_file_knows_nobody_and_holds_nothing_up() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    for make in [
        "mkfifo /etc/passwd",
        "mkdir /etc/passwd",
        "mknod /etc/passwd c 1 5",
        "ln -s /dev/zero /etc/passwd",
        "ln -s /proc/self/mem /etc/passwd",
        "ln -s /proc/kmsg /etc/passwd",
        "ln -s passwd /etc/passwd",
        "ln -s /dev/tty /etc/passwd",
        "ln -s ../../../../proc/1/root/etc/passwd /etc/passwd",
        "dd if=/dev/zero of=/etc/passwd bs=1 count=1 seek=10G 2>/dev/null",
    ] {
        let _root = with_root(bed, &format!("rm /etc/passwd; {make}"));
        let refused = refusal(bed.run(&as_user("web")));
        assert!(refused.message.contains("unable to find user web"), "{make}: {refused:?}");
        // A number needs no database.
        assert_eq!(output(bed, &as_user("33")), "33\n/\n", "{make}");
    }
}

#[test]
fn user_database_of_nonsense_gives_numbers_and_homes_that_are_none_to_nobody() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let lines = "a:x:-1:0::/:\\nb:x:4294967296:0::/:\\nc:x:4294967295:0::/:\\nd:x:5:6::rel:\\n:::::::\\n\\377\\376:x:7:7::/:\\n\
                 web:x:33:34::/x\\n=y:/bin/sh\\n";
    let _root = with_root(bed, &format!("printf '{lines}' > /etc/passwd"));
    for name in ["a", "b"] {
        let refused = refusal(bed.run(&as_user(name)));
        assert!(refused.message.contains("unable to find user"), "{refused:?}");
    }
    // No id to the kernel: setresuid(2) would leave the user as it is, root.
    refusal(bed.run(&as_user("c")));
    assert_eq!(output(bed, &as_user("d")), "5\n/\n");
    assert_eq!(output(bed, &as_user("web")), "33\n/x\n");
}

#[test]
fn working_folder_through_descriptors_of_the_stage_stays_in_the_root() {
    let bed = bed_or_skip!();
    // CVE-2024-21626.
    for number in 3..12 {
        for path in [format!("/proc/self/fd/{number}"), format!("/proc/thread-self/fd/{number}/..")]
        {
            let container = Container::sh(
                "ls -d husk etc/husk run/husk 2>/dev/null; pwd; ls /proc/1/cwd/bin/sh",
            )
            .with("/process/cwd", json!(path));
            if let Ok(ended) = bed.run(&container) {
                assert!(
                    ended.stdout.starts_with('/') && !ended.stdout.contains("husk"),
                    "{path}: {ended:?}"
                );
            }
        }
    }
    bed.block_on(async {
        let idle = Container::sh("echo ready; sleep 1000");
        let stdio = bed.up(&idle).await.unwrap();
        for number in 3..12 {
            let mut look = process(&["ls", ".."]);
            look["cwd"] = json!(format!("/proc/self/fd/{number}"));
            if let Ok(ended) = bed.run_exec(&idle.id, &look).await {
                assert!(!ended.stdout.contains("husk"), "{number}: {ended:?}");
            }
        }
        bed.down(&idle).await;
        drop(stdio);
    });
}

#[test]
fn working_folder_that_is_a_link_to_a_descriptor_leads_nowhere() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let links = "for n in 3 4 5 6 7 8 9; do ln -s /proc/self/fd/$n /w$n; done";
    let _root = with_root(bed, links);
    for number in 3..10 {
        let container = on_disk("pwd -P; ls ..").with("/process/cwd", json!(format!("/w{number}")));
        if let Ok(ended) = bed.run(&container) {
            assert!(!ended.stdout.contains("husk"), "{ended:?}");
        }
    }
}

#[test]
fn interpreter_that_is_the_stage_itself_gives_nothing_of_the_agent() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    // CVE-2019-5736: /proc/self/exe is the agent's program until the exec.
    let make = "printf '#!/proc/self/exe\\n' > /bin/evil; chmod 755 /bin/evil; ln -s /proc/self/exe /bin/link";
    let _root = with_root(bed, make);
    // As root, and it is the agent's own file: none of this may reach the guest's.
    let attack =
        "chmod 0 /proc/1/exe; chown 33 /proc/1/exe; echo x > /proc/1/exe; readlink /proc/1/exe";
    for program in ["evil", "link", "/proc/self/exe"] {
        let container = Container::new(&[program]).disk(DISK);
        bed.block_on(async {
            bed.create(&container, &Stdio::default()).await.unwrap();
            // The agent's program knows that it is not the first of a guest, and does not end.
            if bed.start(&container.id).await.is_ok() {
                let _ = bed.run_exec(&container.id, &process(&["sh", "-c", attack])).await;
            }
            bed.remove(&container.id).await.unwrap();
        });
        assert_eq!(output(bed, &Container::sh("echo well")), "well\n", "{program}");
    }
}

/// A container whose /dev is the image's own: nothing is mounted over it.
fn with_the_images_dev(container: Container) -> Container {
    container
        .with("/mounts", json!([{"destination": "/proc", "type": "proc", "source": "proc"}]))
        .with("/linux/readonlyPaths", json!([]))
}

#[test]
fn null_device_of_the_image_masks_nothing() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let _clean = Clean(bed);
    // CVE-2025-31133: what masks is bound from the guest, never from the container.
    let make = "rm -f /dev/null; ln -s /masked/folder/inside /dev/null; readlink /dev/null";
    let said = output(bed, &with_the_images_dev(on_disk(make)));
    assert_eq!(said, "/masked/folder/inside\n");
    let masked = with_the_images_dev(on_disk("cat /masked/file; [ -c /dev/null ] && echo device"))
        .with("/linux/maskedPaths", json!(["/masked/file"]));
    assert_eq!(output(bed, &masked), "device\n");
}

#[test]
fn console_of_the_image_that_is_a_link_lands_inside_and_not_on_proc() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let _clean = Clean(bed);
    // CVE-2025-52565: what is bound is the terminal by its descriptor, wherever the link leads.
    let make = "mkdir -p /far; : > /far/file; rm -f /dev/console; ln -s /far/file /dev/console";
    output(bed, &with_the_images_dev(on_disk(make)));
    let pts = json!({"destination": "/dev/pts", "type": "devpts", "source": "devpts",
                     "options": ["newinstance", "ptmxmode=0666"]});
    let terminal =
        |script: &str| with_the_images_dev(on_disk(script)).mount(pts.clone()).terminal();
    let ended = bed.run(&terminal("tty; ls -l /far/file | cut -c1")).unwrap();
    assert_eq!((ended.code, ended.stdout.as_str()), (0, "/dev/pts/0\r\nc\r\n"), "{ended:?}");
    let make = "rm /dev/console; ln -s /proc/uptime /dev/console";
    output(bed, &with_the_images_dev(on_disk(make)));
    let refused = refusal(bed.run(&terminal("true")));
    assert!(refused.message.contains("/proc"), "{refused:?}");
}

#[test]
fn mount_points_that_are_links_land_inside_or_are_refused() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let make = "ln -s /proc/self /self; ln -s /proc/1/root /up1; ln -s ../../../.. /up2; \
                ln -s /proc/sys/kernel /kernel; ln -s /proc /p; mkfifo /fifo; ln -s /nowhere/at/all /dangling";
    let _root = with_root(bed, make);
    let tmpfs = |destination: &str| {
        on_disk("grep -c . /proc/mounts > /dev/null; ls -d /run/husk 2>/dev/null; echo done")
            .mount(json!({"destination": destination, "type": "tmpfs", "source": "tmpfs"}))
    };
    for destination in ["/self/attr", "/kernel", "/p", "/p/sys"] {
        let refused = refusal(bed.run(&tmpfs(destination)));
        assert_eq!(refused.kind, ErrorKind::Invalid, "{destination}: {refused:?}");
    }
    // Links of the kernel's own, which lead out of any root, are not followed.
    for destination in ["/up1/proc", "/self/root/proc"] {
        let refused = refusal(bed.run(&tmpfs(destination)));
        assert!(refused.message.contains("ELOOP"), "{destination}: {refused:?}");
    }
    for destination in ["/up2/tmp", "/dangling", "/dangling/more"] {
        assert_eq!(output(bed, &tmpfs(destination)), "done\n", "{destination}");
    }
    // A folder over a pipe cannot be, and the pipe must not be opened.
    refusal(bed.run(&tmpfs("/fifo")));
}

#[test]
fn kernel_file_system_is_not_mounted_through_a_link_and_others_stay_inside() {
    let bed = bed_or_skip!();
    let _turn = crate::turn_at_the_disk();
    let _root = with_root(bed, "mkdir -p /real; rmdir /tmp; ln -s /real /tmp; ln -s /proc /kernel");
    // What would be mounted there would lie over /proc.
    let sysfs = json!({"destination": "/kernel", "type": "sysfs", "source": "sysfs"});
    let refused = refusal(bed.run(&on_disk("true").mount(sysfs)));
    assert!(refused.message.contains("/kernel"), "{refused:?}");
    let mounts = json!([
        {"destination": "/proc", "type": "proc", "source": "proc"},
        {"destination": "/tmp", "type": "tmpfs", "source": "tmpfs", "options": ["size=64k"]},
    ]);
    let container = on_disk("grep -o ' /real tmpfs' /proc/mounts").with("/mounts", mounts);
    assert_eq!(output(bed, &container), " /real tmpfs\n");
}
