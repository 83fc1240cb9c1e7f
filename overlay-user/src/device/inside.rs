//! The container's end of a pair: its addresses, up, and loopback up with it.

use std::{fs::File, io};

use ipnet::IpNet;
use netlink_packet_route::address::{AddressAttribute, AddressFlags};
use rtnetlink::{Handle, LinkUnspec};

use super::{DeviceError, EndpointDevice, gro, netns};
use crate::netlink::{self, into_io, ipv6};

pub(super) async fn configure(device: &EndpointDevice, namespace: File) -> Result<(), DeviceError> {
    let name = device.ifname.clone();
    let addresses = device.addresses.clone();
    let takes_redirects = device.takes_redirects;
    netns::inside(namespace, async move || {
        let kernel = netlink::connect()?;
        ipv6::addressed_by_store(&name);
        let link = netlink::link_named(&kernel, &name).await?;
        let ifindex = link.ok_or_else(|| context(&name, &io::ErrorKind::NotFound.into()))?.ifindex;
        for address in addresses {
            add_address(&kernel, ifindex, address)
                .await
                .map_err(|error| context(&format!("give {name} the address {address}"), &error))?;
        }
        if takes_redirects {
            gro::queue_redirects(&name)?;
        }
        for up in [LinkUnspec::new_with_index(ifindex), LinkUnspec::new_with_name("lo")] {
            let result = kernel.link().set(up.up().build()).execute().await;
            result.map_err(|error| context(&format!("set up {name} and lo"), &into_io(error)))?;
        }
        Ok(())
    })
    .await
    .map_err(|error| DeviceError::Failed(format!("in the container's namespace: {error}")))
}

async fn add_address(kernel: &Handle, ifindex: u32, address: IpNet) -> io::Result<()> {
    let mut request = kernel.address().add(ifindex, address.addr(), address.prefix_len());
    if address.addr().is_ipv6() {
        // The store is what makes addresses unique; detection would only delay the first packet.
        let flags = AddressAttribute::Flags(AddressFlags::Nodad);
        request.message_mut().attributes.push(flags);
    }
    request.execute().await.map_err(into_io)
}

fn context(what: &str, error: &io::Error) -> io::Error {
    io::Error::new(error.kind(), format!("{what}: {error}"))
}
