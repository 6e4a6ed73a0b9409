//! `octet healthcheck`

use std::io::{BufRead, BufReader, Write};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, TcpStream, ToSocketAddrs};
use std::time::Duration;

use anyhow::{Context, bail};
use clap::Args;

use super::Common;

/// Ask the server on this machine whether it is ready: exit code 0 if it is, 1 if not.
///
/// For containers, which have no shell to run curl. Settings are read as `octet
/// serve` reads them, so the server is found where its own settings put it.
///
///   octet healthcheck --port 9000
#[derive(Args)]
#[command(verbatim_doc_comment)]
pub(super) struct HealthcheckArgs {
    /// Port of the server [default: server.port]
    #[arg(long)]
    port: Option<u16>,
    /// How long the server may take to answer, in milliseconds
    #[arg(long, value_name = "MS", default_value_t = 2000, value_parser = clap::value_parser!(u64).range(1..=600_000))]
    timeout_ms: u64,
}

pub(super) fn run(args: HealthcheckArgs, common: &Common) -> anyhow::Result<()> {
    let server = common.settings(Vec::new())?.server;
    let address = local_address(&server.host, args.port.unwrap_or(server.port))?;
    ask(address, Duration::from_millis(args.timeout_ms))
}

/// Where a server that listens on `host` is reached from the same machine.
fn local_address(host: &str, port: u16) -> anyhow::Result<SocketAddr> {
    let found = (host, port).to_socket_addrs().with_context(|| format!("server.host {host}"))?.next();
    let mut address = found.with_context(|| format!("server.host {host} has no address"))?;
    if address.ip().is_unspecified() {
        address.set_ip(match address.ip() {
            IpAddr::V4(_) => Ipv4Addr::LOCALHOST.into(),
            IpAddr::V6(_) => Ipv6Addr::LOCALHOST.into(),
        });
    }
    Ok(address)
}

/// `GET /readyz`; anything but 200 is an error that says what was found.
fn ask(address: SocketAddr, timeout: Duration) -> anyhow::Result<()> {
    let asking = || format!("asking {address} for /readyz");
    let mut stream = TcpStream::connect_timeout(&address, timeout).with_context(asking)?;
    stream.set_read_timeout(Some(timeout)).with_context(asking)?;
    stream.set_write_timeout(Some(timeout)).with_context(asking)?;
    // One write, so that the request arrives whole.
    let request = format!("GET /readyz HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).with_context(asking)?;
    let mut status = String::new();
    BufReader::new(stream).read_line(&mut status).with_context(asking)?;
    match status.split_once(' ') {
        Some((protocol, rest)) if protocol.starts_with("HTTP/1.") && rest.starts_with("200") => Ok(()),
        _ => bail!("{address} is not ready: found \"{}\", expected status 200 from /readyz", status.trim_end()),
    }
}

#[cfg(test)]
mod tests {
    use std::io::Read;
    use std::net::TcpListener;

    use super::*;

    const TIMEOUT: Duration = Duration::from_secs(2);

    /// A server that sends `answer` to one request; an empty one hangs until the client gives up.
    fn server(answer: &'static str) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        std::thread::spawn(move || {
            let (mut client, _) = listener.accept().unwrap();
            let mut request = [0; 1024];
            let read = client.read(&mut request).unwrap();
            assert!(request[..read].starts_with(b"GET /readyz HTTP/1.1\r\n"));
            match answer {
                "" => drop(client.read(&mut request)),
                answer => client.write_all(answer.as_bytes()).unwrap(),
            }
        });
        address
    }

    #[test]
    fn only_status_200_is_healthy() {
        ask(server("HTTP/1.1 200 OK\r\n\r\n{}"), TIMEOUT).unwrap();
        let error = ask(server("HTTP/1.1 503 Service Unavailable\r\n\r\n{}"), TIMEOUT).unwrap_err().to_string();
        assert!(error.contains("found \"HTTP/1.1 503 Service Unavailable\""), "{error}");
        assert!(ask(server("SSH-2.0-OpenSSH 200\r\n"), TIMEOUT).is_err_and(|e| e.to_string().contains("SSH-2.0")));
    }

    #[test]
    fn a_server_that_is_gone_or_hangs_is_not_healthy() {
        assert!(ask(server(""), TIMEOUT).unwrap_err().to_string().starts_with("asking 127.0.0.1:"));
        let gone = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        assert!(ask(gone, TIMEOUT).is_err());
    }

    #[test]
    fn a_server_on_all_interfaces_is_asked_on_loopback() {
        assert_eq!(local_address("0.0.0.0", 80).unwrap(), "127.0.0.1:80".parse().unwrap());
        assert_eq!(local_address("::", 80).unwrap(), "[::1]:80".parse().unwrap());
        assert_eq!(local_address("127.0.0.2", 80).unwrap(), "127.0.0.2:80".parse().unwrap());
    }
}
