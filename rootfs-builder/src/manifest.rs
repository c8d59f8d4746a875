//! The manifest: which agent and kernel a guest image is made of, so that a host can tell an
//! image of another release, or a damaged one, before it boots it.

use serde::{Deserialize, Serialize};
use sha2::{Digest, Sha256};

/// Shape of `manifest.json`, pretty-printed with a newline at its end.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Manifest {
    /// Of this shape; 1.
    pub format: u32,
    /// Release of husk that built the image.
    pub version: String,
    /// `husk_protocols::PROTOCOL_VERSION` of the agent.
    pub protocol: u32,
    /// `initramfs.cpio`.
    pub initramfs: FileDigest,
    /// The agent, `/init` in the initramfs.
    pub agent: FileDigest,
    /// `vmlinux`.
    pub kernel: Kernel,
}

/// One file of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct FileDigest {
    /// Its name beside the manifest, or in the initramfs.
    pub name: String,
    /// Its length.
    pub bytes: u64,
    /// SHA-256, 64 lower-case hexadecimal digits.
    pub sha256: String,
}

/// The kernel of the image.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Kernel {
    /// `vmlinux`.
    pub file: FileDigest,
    /// What `uname -r` says in the guest.
    pub release: String,
    /// Key of source, fragments and compiler, as `kernel-config/build` counts it.
    pub config_key: String,
}

impl FileDigest {
    /// Name, length and digest of `bytes`.
    #[must_use]
    pub fn of(name: &str, bytes: &[u8]) -> Self {
        let sha256 = Sha256::digest(bytes).iter().map(|byte| format!("{byte:02x}")).collect();
        Self { name: name.to_owned(), bytes: bytes.len() as u64, sha256 }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn digest_is_that_of_the_standard() {
        let digest = FileDigest::of("abc", b"abc");
        // FIPS 180-2, appendix B.1.
        assert_eq!(
            digest.sha256,
            "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.bytes, 3);
    }
}
