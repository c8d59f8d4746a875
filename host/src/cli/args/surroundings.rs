//! Flags for what a container takes for its machine and network.

use clap::Args;

use crate::cli::values::{self, mounts, names, namespaces};
use crate::engine::record::{Ipc, TmpfsMount};

/// Names, namespaces and kernel settings.
#[derive(Debug, Default, Args)]
pub struct SurroundingsFlags {
    /// Host name inside the container
    #[arg(short = 'h', long)]
    pub hostname: Option<String>,
    /// NIS domain name inside the container
    #[arg(long, value_name = "NAME")]
    pub domainname: Option<String>,
    /// Add a line to /etc/hosts
    #[arg(long, value_name = "NAME:ADDRESS", value_parser = names::extra_host)]
    pub add_host: Vec<String>,
    /// Name server
    #[arg(long, value_name = "ADDRESS", value_parser = names::address)]
    pub dns: Vec<String>,
    /// Domain that names are completed with; . for none
    #[arg(long, value_name = "DOMAIN", value_parser = names::domain)]
    pub dns_search: Vec<String>,
    /// Option of the resolver
    #[arg(long, alias = "dns-opt", value_name = "OPTION")]
    pub dns_option: Vec<String>,
    /// none: loopback alone, which is all there is yet
    #[arg(long, alias = "net", value_name = "none", value_parser = namespaces::network)]
    pub network: Option<String>,
    /// private, or none for no /dev/shm
    #[arg(long, value_name = "private|none", value_parser = namespaces::ipc)]
    pub ipc: Option<Ipc>,
    /// private
    #[arg(long, value_name = "private", value_parser = namespaces::pid)]
    pub pid: Option<String>,
    /// private
    #[arg(long, value_name = "private", value_parser = namespaces::uts)]
    pub uts: Option<String>,
    /// private
    #[arg(long, value_name = "private", value_parser = namespaces::cgroup)]
    pub cgroupns: Option<String>,
    /// Kernel setting of the container's own namespaces
    #[arg(long, value_name = "NAME=VALUE", value_parser = names::sysctl)]
    pub sysctl: Vec<(String, String)>,
    /// Kernel setting of the guest
    #[arg(long, value_name = "NAME=VALUE", value_parser = names::guest_sysctl)]
    pub guest_sysctl: Vec<(String, String)>,
    /// Word for the command line of the guest's kernel
    #[arg(long, value_name = "WORD", value_parser = names::kernel_arg)]
    pub kernel_arg: Vec<String>,
}

/// What lies over the image.
#[derive(Debug, Default, Args)]
pub struct FilesystemFlags {
    /// Make the root file system read-only
    #[arg(long)]
    pub read_only: bool,
    /// Mount a tmpfs
    #[arg(long, value_name = "PATH[:OPTIONS]")]
    pub tmpfs: Vec<String>,
    /// Mount a tmpfs: type=tmpfs,target=PATH[,tmpfs-size=SIZE][,tmpfs-mode=MODE][,readonly]
    #[arg(long, value_name = "type=tmpfs,...", value_parser = mounts::mount)]
    pub mount: Vec<TmpfsMount>,
}

/// What people and programs note on a container.
#[derive(Debug, Default, Args)]
pub struct NoteFlags {
    /// Label
    #[arg(short, long, value_name = "NAME[=VALUE]")]
    pub label: Vec<String>,
    /// Labels from a file
    #[arg(long, value_name = "FILE")]
    pub label_file: Vec<String>,
    /// Annotation of the OCI spec
    #[arg(long, value_name = "NAME=VALUE", value_parser = values::pair)]
    pub annotation: Vec<(String, String)>,
}
