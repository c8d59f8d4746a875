//! The program. See the library.

fn main() -> std::process::ExitCode {
    husk_agent::main()
}
