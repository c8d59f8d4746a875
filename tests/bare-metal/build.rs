//! Links the guest for a machine without an operating system; elsewhere, changes nothing.

use std::env;

fn main() {
    println!("cargo::rerun-if-changed=link.ld");
    println!("cargo::rerun-if-changed=src/guest/entry.s");
    if env::var("CARGO_CFG_TARGET_ENV").is_ok_and(|name| name == "musl") {
        let folder = env::var("CARGO_MANIFEST_DIR").expect("set by cargo");
        for argument in [
            "-nostartfiles".to_owned(),
            "-nostdlib".to_owned(),
            "-static".to_owned(),
            format!("-Wl,-T,{folder}/link.ld,--build-id=none,-z,max-page-size=4096"),
        ] {
            println!("cargo::rustc-link-arg-bins={argument}");
        }
    }
}
