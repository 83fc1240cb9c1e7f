//! Docker's side of the plugin protocol: requests as Docker makes them, on the socket of a daemon.

use std::{
    io::{Read as _, Write as _},
    os::unix::net::UnixStream,
    path::PathBuf,
    time::Duration,
};

use anyhow::{Context as _, Result, bail};
use serde_json::{Value, json};

use crate::{netns::Netns, node::Node};

/// Longer than any request may take.
const PATIENCE: Duration = Duration::from_secs(15);

/// Who calls a daemon's driver.
#[derive(Clone, Debug)]
pub struct Caller {
    socket: PathBuf,
}

impl Caller {
    /// Calls the driver of a node of the lab.
    #[must_use]
    pub fn of(node: &Node) -> Self {
        Self::at(node.plugin_socket())
    }

    /// Calls the driver on a socket.
    #[must_use]
    pub const fn at(socket: PathBuf) -> Self {
        Self { socket }
    }

    /// Posts a body and returns the status and the body of the answer. Without a content type, as Docker does.
    pub fn post(&self, method: &str, body: &[u8]) -> Result<(u16, Vec<u8>)> {
        let mut stream = UnixStream::connect(&self.socket)
            .with_context(|| format!("nobody listens on {}", self.socket.display()))?;
        stream.set_read_timeout(Some(PATIENCE))?;
        write!(
            stream,
            "POST /{method} HTTP/1.1\r\nHost: plugin\r\nAccept: application/vnd.docker.plugins.v1.2+json\r\n\
             Connection: close\r\nContent-Length: {}\r\n\r\n",
            body.len()
        )?;
        // A request that is refused by its length alone is not read to its end.
        let sent = stream.write_all(body);
        let mut answer = Vec::new();
        if let Err(error) = stream.read_to_end(&mut answer)
            && answer.is_empty()
        {
            return Err(error).with_context(|| format!("{method} was not answered (sent: {sent:?})"));
        }
        let head = answer
            .windows(4)
            .position(|end| end == b"\r\n\r\n")
            .context("an answer without an end of its head")?;
        let status =
            str::from_utf8(&answer[..head])?.split(' ').nth(1).context("an answer without a status")?;
        let status = status.parse()?;
        Ok((status, answer.split_off(head + 4)))
    }

    /// Calls a method; an answer with an error in it is one.
    pub fn call(&self, method: &str, request: &Value) -> Result<Value> {
        let (status, body) = self.post(method, request.to_string().as_bytes())?;
        let answer: Value = serde_json::from_slice(&body)
            .with_context(|| format!("{method}: {status} {}", String::from_utf8_lossy(&body)))?;
        let error = [&answer["Err"], &answer["Error"]].into_iter().find_map(Value::as_str);
        match error.map(str::to_owned) {
            Some(error) => bail!("{error}"),
            None if status != 200 => bail!("{method}: {status} {answer}"),
            None => Ok(answer),
        }
    }

    /// What a call that is refused is refused with.
    pub fn refusal(&self, method: &str, request: &Value) -> Result<String> {
        match self.call(method, request) {
            Ok(answer) => bail!("{method} of {request} was done: {answer}"),
            Err(error) => Ok(format!("{error:#}")),
        }
    }
}

/// An identity as Docker makes them, of a number.
#[must_use]
pub fn docker_id(number: u32) -> String {
    format!("{number:064x}")
}

/// A container that was connected by the calls that `docker run` makes.
pub struct Connected {
    /// Its namespace.
    pub netns: Netns,
    /// Its addresses with their prefix lengths.
    pub addresses: Vec<String>,
    /// Its MAC address.
    pub mac: String,
    /// Identity of its network in Docker.
    pub network: String,
    /// Identity of its endpoint in Docker.
    pub endpoint: String,
}

impl Connected {
    /// Connects a namespace to a network, with an address of each of `pools`, and does with the interface
    /// what Docker does: moves it, names it, gives it its addresses and sets it up.
    pub fn run(node: &Node, network: &str, pools: &[&str], endpoint: u32) -> Result<Self> {
        let caller = Caller::of(node);
        let endpoint = docker_id(endpoint);
        let mut interface = json!({ "Address": "", "AddressIPv6": "", "MacAddress": "" });
        let mut addresses = Vec::new();
        for pool in pools {
            let request = json!({ "PoolID": pool, "Address": "", "Options": null });
            let answer = caller.call("IpamDriver.RequestAddress", &request)?;
            let address = answer["Address"].as_str().context("no address")?.to_owned();
            let field = if address.contains('.') { "Address" } else { "AddressIPv6" };
            interface[field] = json!(address);
            addresses.push(address);
        }
        let request =
            json!({ "NetworkID": network, "EndpointID": endpoint, "Interface": interface, "Options": {} });
        let answer = caller.call("NetworkDriver.CreateEndpoint", &request)?;
        let mac = answer["Interface"]["MacAddress"].as_str().context("no MAC address")?.to_owned();

        let netns = Netns::new("run")?;
        let request = json!({ "NetworkID": network, "EndpointID": endpoint, "SandboxKey": netns.path(), "Options": {} });
        let joined = caller.call("NetworkDriver.Join", &request)?;
        let name = joined["InterfaceName"]["SrcName"].as_str().context("no interface")?;
        node.netns().exec(&format!("ip link set {name} netns {}", netns.name()))?;
        netns.exec(&format!("ip link set {name} name eth0"))?;
        for address in &addresses {
            let nodad = if address.contains(':') { " nodad" } else { "" };
            netns.exec(&format!("ip addr add {address} dev eth0{nodad}"))?;
        }
        netns.exec("ip link set eth0 up")?;
        Ok(Self { netns, addresses, mac, network: network.to_owned(), endpoint })
    }

    /// A request about its endpoint.
    #[must_use]
    pub fn request(&self) -> Value {
        json!({ "NetworkID": self.network, "EndpointID": self.endpoint })
    }
}
