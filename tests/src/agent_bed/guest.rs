//! Calls about the guest as a whole.

use husk_protocols::{agent, port::CONSOLE_PORT};
use tokio::{io::AsyncReadExt, net::UnixStream};

use super::{Answer, Bed, Stdio, deadline};

impl Bed {
    /// `Guest.SetHostname`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn set_hostname(&self, hostname: &str) -> Answer<()> {
        let hostname = hostname.to_owned();
        let request = agent::SetHostnameRequest { hostname, ..Default::default() };
        self.guest.set_hostname(deadline(), &request).await?;
        Ok(())
    }

    /// `Guest.WriteFiles`, of one file.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn write_file(&self, name: &str, content: &str) -> Answer<()> {
        let file = agent::File {
            name: name.to_owned(),
            content: content.as_bytes().to_vec(),
            mode: 0o644,
            ..Default::default()
        };
        let request = agent::WriteFilesRequest { files: vec![file], ..Default::default() };
        self.guest.write_files(deadline(), &request).await?;
        Ok(())
    }

    /// `Guest.SetDns`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn set_dns(&self, servers: &[&str], search: &[&str], options: &[&str]) -> Answer<()> {
        let list = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
        let request = agent::SetDnsRequest {
            servers: list(servers),
            search: list(search),
            options: list(options),
            ..Default::default()
        };
        self.guest.set_dns(deadline(), &request).await?;
        Ok(())
    }

    /// `Guest.SetHosts`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn set_hosts(&self, entries: &[(&str, &[&str])]) -> Answer<()> {
        let entries = entries
            .iter()
            .map(|(address, names)| agent::HostsEntry {
                address: (*address).to_owned(),
                names: names.iter().map(|name| (*name).to_owned()).collect(),
                ..Default::default()
            })
            .collect();
        let request = agent::SetHostsRequest { entries, ..Default::default() };
        self.guest.set_hosts(deadline(), &request).await?;
        Ok(())
    }

    /// `Guest.SetOnlineCpus`: how many are online then, and how many are there.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn set_online_cpus(&self, online: u32) -> Answer<(u32, u32)> {
        let request = agent::SetOnlineCpusRequest { online, ..Default::default() };
        let response = self.guest.set_online_cpus(deadline(), &request).await?;
        Ok((response.online, response.present))
    }

    /// `Guest.SetClock`: how much the guest's was ahead, and whether it was set.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn set_clock(&self, wall_clock_ns: u64) -> Answer<(i64, bool)> {
        let request = agent::SetClockRequest { wall_clock_ns, ..Default::default() };
        let response = self.guest.set_clock(deadline(), &request).await?;
        Ok((response.ahead_ns, response.stepped))
    }

    /// `Guest.Reseed`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn reseed(&self, seed: &[u8]) -> Answer<()> {
        let request = agent::ReseedRequest { seed: seed.to_owned(), ..Default::default() };
        self.guest.reseed(deadline(), &request).await?;
        Ok(())
    }

    /// `Guest.Logs`. Returns the stream of lines.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn logs(&self, level: u32, once: bool) -> Answer<UnixStream> {
        let (stream, lines) = self.open().await.expect("the VM runs");
        let request = agent::LogsRequest { stream, level, once, ..Default::default() };
        self.guest.logs(deadline(), &request).await?;
        Ok(lines)
    }

    /// All lines of the log that there are now.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn log_lines(&self, level: u32) -> Answer<Vec<serde_json::Value>> {
        let mut text = String::new();
        let mut stream = self.logs(level, true).await?;
        stream.read_to_string(&mut text).await.expect("the stream ends");
        Ok(text
            .lines()
            .map(|line| serde_json::from_str(line).expect("each line is JSON"))
            .collect())
    }

    /// `Guest.Metrics`.
    ///
    /// # Errors
    /// The agent's refusal.
    pub async fn metrics(&self) -> Answer<String> {
        Ok(self.guest.metrics(deadline(), &agent::Empty::default()).await?.text)
    }

    /// A connection to the debug console; nothing when nobody listens.
    #[must_use]
    pub fn console(&self) -> Option<std::os::unix::net::UnixStream> {
        self.vsock.connect(CONSOLE_PORT).ok()
    }

    /// What a stream of this token, and no other, was opened for: a process's output.
    #[must_use]
    pub fn output_of(token: u64) -> Stdio {
        let mut stdio = Stdio::default();
        stdio.wire.stdout = token;
        stdio
    }
}
