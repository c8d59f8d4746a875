//! Generates message and service code from `proto/` with the pure-Rust ttrpc compiler.

use ttrpc_codegen::{Codegen, Customize, ProtobufCustomize};

fn main() {
    println!("cargo::rerun-if-changed=proto");
    let out = std::env::var("OUT_DIR").expect("cargo sets OUT_DIR for build scripts");
    Codegen::new()
        .out_dir(&out)
        .inputs(["proto/agent.proto"])
        .include("proto")
        .rust_protobuf()
        .customize(Customize { async_all: true, ..Default::default() })
        .rust_protobuf_customize(ProtobufCustomize::default().gen_mod_rs(false))
        .run()
        .expect("proto/agent.proto compiles");
    // The generators' own mod.rs opens with an inner attribute, which include! does not take.
    std::fs::write(format!("{out}/modules.rs"), "pub mod agent;\npub mod agent_ttrpc;\n")
        .expect("OUT_DIR is writable");
}
