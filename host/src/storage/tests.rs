//! These need mke2fs; the set-up of the tests installs it.

use std::process::Command;

use super::*;

const SIZE: u64 = 64 << 20;

fn entries(folder: &Path) -> usize {
    fs::read_dir(folder).unwrap().count()
}

#[test]
fn layer_is_a_sound_file_system_and_sparse() {
    let folder = tempfile::tempdir().unwrap();
    let template = Template::open(&folder.path().join("cache")).unwrap();
    let layer = folder.path().join("layer.img");
    for life in [Life::Kept, Life::OneVm] {
        template.create(&layer, DEFAULT_SIZE_BYTES, life).unwrap();
        assert_eq!(layer.metadata().unwrap().len(), DEFAULT_SIZE_BYTES);
        let used = used_bytes(&layer).unwrap();
        assert!(used < 2 << 20, "{used} bytes for an empty layer");
        let program = Mke2fs::find().unwrap().sibling("e2fsck");
        let check = Command::new(program).args(["-f", "-n"]).arg(&layer).output().unwrap();
        assert!(check.status.success(), "{}", String::from_utf8_lossy(&check.stdout));
        fs::remove_file(&layer).unwrap();
    }
}

/// Source: the kernel's Documentation/filesystems/ext4/super.rst, `s_feature_compat`.
#[test]
fn only_a_layer_that_is_kept_has_a_journal() {
    const FEATURE_COMPAT: usize = 1024 + 0x5c;
    const HAS_JOURNAL: u8 = 4;
    let folder = tempfile::tempdir().unwrap();
    let template = Template::open(&folder.path().join("cache")).unwrap();
    let has_journal = |life: Life| {
        let layer = folder.path().join(format!("{life:?}.img"));
        template.create(&layer, SIZE, life).unwrap();
        fs::read(layer).unwrap()[FEATURE_COMPAT] & HAS_JOURNAL != 0
    };
    assert!(has_journal(Life::Kept));
    assert!(!has_journal(Life::OneVm));
}

#[test]
fn templates_are_the_same_bit_for_bit() {
    let folder = tempfile::tempdir().unwrap();
    let layers = ["a", "b"].map(|name| {
        let template = Template::open(&folder.path().join(name)).unwrap();
        let layer = folder.path().join(format!("{name}.img"));
        template.create(&layer, SIZE, Life::Kept).unwrap();
        fs::read(layer).unwrap()
    });
    assert!(layers[0] == layers[1]);
}

#[test]
fn template_is_made_once_per_size() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    let template = Template::open(&cache).unwrap();
    template.create(&folder.path().join("1"), SIZE, Life::Kept).unwrap();
    let before = entries(&cache);
    template.create(&folder.path().join("2"), SIZE, Life::Kept).unwrap();
    assert_eq!(entries(&cache), before);
    template.create(&folder.path().join("3"), SIZE + 1, Life::Kept).unwrap();
    assert_eq!(entries(&cache), before + 1);
}

#[test]
fn half_made_template_of_a_killed_process_is_cleared() {
    let folder = tempfile::tempdir().unwrap();
    let cache = folder.path().join("cache");
    // One who was killed before there was a template, and one after that.
    for number in ["1", "2"] {
        fs::create_dir_all(&cache).unwrap();
        let leftover = cache.join(format!("{LEFTOVER_PREFIX}x"));
        fs::write(&leftover, "half").unwrap();
        let template = Template::open(&cache).unwrap();
        template.create(&folder.path().join(number), SIZE, Life::Kept).unwrap();
        assert!(!leftover.exists(), "{number}");
    }
}

#[test]
fn sizes_out_of_range_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let template = Template::open(folder.path()).unwrap();
    let layer = folder.path().join("layer.img");
    for size_bytes in [0, MIN_SIZE_BYTES - 1, MAX_SIZE_BYTES + 1, u64::MAX] {
        let refused = template.create(&layer, size_bytes, Life::Kept);
        assert!(matches!(refused, Err(StorageError::Size { .. })), "{size_bytes}");
        assert!(!layer.exists());
    }
    template.create(&layer, MIN_SIZE_BYTES, Life::Kept).unwrap();
}

#[test]
fn existing_file_is_left_alone() {
    let folder = tempfile::tempdir().unwrap();
    let template = Template::open(&folder.path().join("cache")).unwrap();
    let layer = folder.path().join("layer.img");
    fs::write(&layer, "precious").unwrap();
    assert!(matches!(template.create(&layer, SIZE, Life::Kept), Err(StorageError::Io { .. })));
    assert_eq!(fs::read(&layer).unwrap(), b"precious");
}

#[test]
fn layer_that_could_not_be_filled_is_removed() {
    let folder = tempfile::tempdir().unwrap();
    let unreadable = File::create(folder.path().join("template")).unwrap();
    std::io::Write::write_all(&mut &unreadable, b"data").unwrap();
    let layer = folder.path().join("layer.img");
    let error = copy_to_new(&unreadable, &layer).unwrap_err();
    assert!(matches!(error, StorageError::Io { op: "create", .. }));
    assert!(!layer.exists());
}

#[test]
fn missing_space_is_told_with_numbers() {
    let folder = tempfile::tempdir().unwrap();
    let error = check_space(&folder.path().join("x"), u64::MAX).unwrap_err();
    assert!(error.to_string().contains("no space left on device"), "{error}");
}

#[test]
fn mke2fs_that_refuses_is_quoted() {
    let error = Mke2fs::find().unwrap().run(Path::new("no/such/file"), Life::Kept).unwrap_err();
    assert!(matches!(error, StorageError::Mke2fs { .. }));
}
