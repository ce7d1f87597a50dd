//! The names of devices on the command line, and the devices that they stand for.

use std::fmt;
use std::str::FromStr;

use anyhow::{Result, bail};
use burn::tensor::Device;

/// A backend of burn that a device name may begin with.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Backend {
    Flex,
    Wgpu,
    Vulkan,
    Metal,
    Cuda,
    Rocm,
    Tch,
    TchCuda,
}

/// A device as it is named on the command line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct DeviceName {
    backend: Backend,
    index: usize,
}

impl DeviceName {
    pub(crate) fn new(backend: Backend, index: usize) -> Self {
        Self { backend, index }
    }

    /// The device, if it is compiled in and there.
    pub(crate) fn open(self) -> Result<Device> {
        let feature = self.backend.feature();
        let Some(devices) = self.backend.devices() else {
            bail!(
                "device {self} is not compiled in; build with `--features {feature}`, or choose \
                 one that `olmo devices` lists"
            );
        };
        #[cfg(feature = "wgpu")]
        if let Some(adapter) = self.backend.preferred_adapter()
            && !devices.is_empty()
        {
            return Ok(adapter);
        }
        match devices.get(self.index) {
            Some(device) => Ok(device.clone()),
            None => bail!(
                "device {self} is not there: {} found; `olmo devices` lists them",
                match devices.len() {
                    0 => format!("no {} device", self.backend.name()),
                    n => format!("{n} {} devices, counted from 0,", self.backend.name()),
                }
            ),
        }
    }
}

impl fmt::Display for DeviceName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.backend.name())?;
        if self.backend.is_numbered() { write!(f, ":{}", self.index) } else { Ok(()) }
    }
}

impl FromStr for DeviceName {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (name, index) = match text.split_once(':') {
            Some((name, index)) => (name, Some(index)),
            None => (text, None),
        };
        let Some(backend) = Backend::ALL.into_iter().find(|backend| backend.name() == name) else {
            let known: Vec<&str> = Backend::ALL.iter().map(|backend| backend.name()).collect();
            return Err(format!("unknown device, expected one of {}", known.join(", ")));
        };
        let index = match index {
            None => 0,
            Some(_) if !backend.is_numbered() => {
                return Err(format!("{name} devices are not numbered, expected {name}"));
            }
            Some(index) => index
                .parse()
                .map_err(|_| format!("{index:?} is no number, expected {name}:0 or the like"))?,
        };
        Ok(Self { backend, index })
    }
}

impl Backend {
    pub(crate) const ALL: [Self; 8] = [
        Self::Flex,
        Self::Wgpu,
        Self::Vulkan,
        Self::Metal,
        Self::Cuda,
        Self::Rocm,
        Self::Tch,
        Self::TchCuda,
    ];

    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Flex => "flex",
            Self::Wgpu => "wgpu",
            Self::Vulkan => "vulkan",
            Self::Metal => "metal",
            Self::Cuda => "cuda",
            Self::Rocm => "rocm",
            Self::Tch => "tch",
            Self::TchCuda => "tch-cuda",
        }
    }

    /// The cargo feature that compiles it in.
    pub(crate) fn feature(self) -> &'static str {
        match self {
            Self::TchCuda => "tch",
            other => other.name(),
        }
    }

    fn is_numbered(self) -> bool {
        matches!(self, Self::Cuda | Self::Rocm | Self::TchCuda)
    }

    /// The devices of this backend on this machine, `None` where it is not compiled in.
    pub(crate) fn devices(self) -> Option<Vec<Device>> {
        #[cfg(feature = "flex")]
        if self == Self::Flex {
            return Some(vec![Device::flex()]);
        }
        #[cfg(feature = "wgpu")]
        if self == Self::Wgpu {
            return Some(Device::enumerate(burn::tensor::DeviceType::Wgpu).to_vec());
        }
        #[cfg(feature = "vulkan")]
        if self == Self::Vulkan {
            return Some(Device::enumerate(burn::tensor::DeviceType::Vulkan).to_vec());
        }
        #[cfg(feature = "metal")]
        if self == Self::Metal {
            return Some(Device::enumerate(burn::tensor::DeviceType::Metal).to_vec());
        }
        #[cfg(feature = "cuda")]
        if self == Self::Cuda {
            return Some(Device::enumerate(burn::tensor::DeviceType::Cuda).to_vec());
        }
        #[cfg(feature = "rocm")]
        if self == Self::Rocm {
            return Some(Device::enumerate(burn::tensor::DeviceType::Rocm).to_vec());
        }
        #[cfg(feature = "tch")]
        if self == Self::Tch {
            // burn lists libtorch's GPUs only; its CPU is always there.
            #[expect(deprecated, reason = "libtorch is one of the backends that we promise")]
            return Some(vec![Device::libtorch()]);
        }
        #[cfg(feature = "tch")]
        if self == Self::TchCuda {
            return Some(Device::enumerate(burn::tensor::DeviceType::LibTorch).to_vec());
        }
        None
    }

    /// The adapter that wgpu itself would take, which need not be the first.
    #[cfg(feature = "wgpu")]
    fn preferred_adapter(self) -> Option<Device> {
        use burn::tensor::DeviceKind::DefaultDevice;
        match self {
            Self::Wgpu => Some(Device::wgpu(DefaultDevice)),
            #[cfg(feature = "vulkan")]
            Self::Vulkan => Some(Device::vulkan(DefaultDevice)),
            #[cfg(feature = "metal")]
            Self::Metal => Some(Device::metal(DefaultDevice)),
            _ => None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_read_back() {
        for (text, backend, index) in [
            ("flex", Backend::Flex, 0),
            ("cuda:3", Backend::Cuda, 3),
            ("tch-cuda:1", Backend::TchCuda, 1),
            ("tch", Backend::Tch, 0),
        ] {
            let name: DeviceName = text.parse().unwrap();
            assert_eq!(name, DeviceName { backend, index });
            assert_eq!(name.to_string(), text);
        }
        assert_eq!("rocm".parse::<DeviceName>().unwrap().to_string(), "rocm:0");
    }

    #[test]
    fn other_names_are_refused() {
        let error = |text: &str| text.parse::<DeviceName>().unwrap_err();
        assert!(error("gpu").starts_with("unknown device, expected one of flex, wgpu"));
        assert_eq!(error("flex:1"), "flex devices are not numbered, expected flex");
        assert!(error("cuda:x").contains("is no number"));
        assert!(error("cuda:-1").contains("is no number"));
    }
}
