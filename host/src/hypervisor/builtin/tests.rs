//! Tests: a VMM played by a script.

use super::super::testing;
use super::*;

/// A configuration whose files exist, and a VMM played by a script.
fn bench(script: &str) -> (tempfile::TempDir, VmConfig, Builtin) {
    let (folder, config) = testing::config();
    let program = testing::program(&folder, "husk", script);
    (folder, config, Builtin::of(&program))
}

macro_rules! kvm_or_skip {
    () => {
        if let Err(error) = File::options().read(true).write(true).open(KVM) {
            eprintln!("SKIPPED: open {KVM}: {error}");
            return;
        }
    };
}

#[test]
fn vmm_that_refuses_is_told_in_its_own_words_and_gone() {
    kvm_or_skip!();
    let (_folder, config, builtin) =
        bench("cat >/dev/null; echo the kernel is no ELF file >&2; exit 125");
    let Err(error) = builtin.start(&config) else { panic!("started") };
    assert_eq!(error.to_string(), "start VM: the kernel is no ELF file");
}

#[test]
fn vmm_that_closes_its_pipe_or_dies_without_a_word_is_told() {
    kvm_or_skip!();
    for script in ["exec <&-; exit 3", "kill -9 $$"] {
        let (_folder, config, builtin) = bench(script);
        let Err(error) = builtin.start(&config) else { panic!("started") };
        assert!(matches!(&error, VmError::Refused { .. }), "{error}");
        assert_eq!(error.to_string().lines().count(), 1, "{error}");
    }
}

#[test]
fn vmm_gets_one_document_and_no_environment() {
    kvm_or_skip!();
    let (folder, config, builtin) = bench("cat; /usr/bin/env | grep -v ^PWD; exit 1");
    // Its standard output leads nowhere: the script says it on standard error.
    let script = std::fs::read_to_string(&builtin.program).unwrap();
    std::fs::write(&builtin.program, script.replace("#!/bin/sh", "#!/bin/sh\nexec >&2")).unwrap();
    let Err(error) = builtin.start(&config) else { panic!("started") };
    let VmError::Refused { reason } = &error else { panic!("{error}") };
    assert!(!reason.contains("HOME="), "{reason}");
    drop(folder);
}
