"""The layers of RAFT (arXiv 2003.12039), with the parameter names that torchvision publishes weights under."""

from __future__ import annotations

from collections.abc import Callable, Sequence

import torch
from torch import Tensor, nn

Norm = Callable[[int], nn.Module]


class Convolution(nn.Sequential):
    """A convolution that keeps the size (but for its stride), a norm, and ReLU."""

    def __init__(
        self, inner: int, outer: int, size: int, stride: int = 1, norm: Norm | None = None, relu: bool = True
    ) -> None:
        layers: list[nn.Module] = [nn.Conv2d(inner, outer, size, stride, padding=size // 2)]
        layers += [norm(outer)] if norm else []
        super().__init__(*layers, *([nn.ReLU()] if relu else []))


class Residual(nn.Module):
    """Two convolutions of 3 x 3 and a shortcut."""

    def __init__(self, inner: int, outer: int, stride: int, norm: Norm | None) -> None:
        super().__init__()
        self.convnormrelu1 = Convolution(inner, outer, 3, stride, norm)
        self.convnormrelu2 = Convolution(outer, outer, 3, norm=norm)
        self.downsample = nn.Identity() if stride == 1 else Convolution(inner, outer, 1, stride, norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.downsample(x) + self.convnormrelu2(self.convnormrelu1(x))).relu()


class Bottleneck(nn.Module):
    """Convolutions of 1 x 1, 3 x 3 and 1 x 1 over a quarter of the channels, and a shortcut."""

    def __init__(self, inner: int, outer: int, stride: int, norm: Norm | None) -> None:
        super().__init__()
        self.convnormrelu1 = Convolution(inner, outer // 4, 1, norm=norm)
        self.convnormrelu2 = Convolution(outer // 4, outer // 4, 3, stride, norm)
        self.convnormrelu3 = Convolution(outer // 4, outer, 1, norm=norm)
        self.downsample = nn.Identity() if stride == 1 else Convolution(inner, outer, 1, stride, norm, relu=False)

    def forward(self, x: Tensor) -> Tensor:
        return (self.downsample(x) + self.convnormrelu3(self.convnormrelu2(self.convnormrelu1(x)))).relu()


class Encoder(nn.Module):
    """Features ``[N, C, H / s, W / s]`` of pictures ``[N, 3, H, W]``."""

    def __init__(
        self, block: type[Residual | Bottleneck], layers: Sequence[int], strides: Sequence[int], norm: Norm | None
    ) -> None:
        super().__init__()
        self.convnormrelu = Convolution(3, layers[0], 7, strides[0], norm)
        for n in (1, 2, 3):
            pair = block(layers[n - 1], layers[n], strides[n], norm), block(layers[n], layers[n], 1, norm)
            self.add_module(f"layer{n}", nn.Sequential(*pair))
        self.conv = nn.Conv2d(layers[3], layers[4], 1)

    def forward(self, pictures: Tensor) -> Tensor:
        features: Tensor = self.convnormrelu(pictures)
        for layer in (self.layer1, self.layer2, self.layer3):
            features = layer(features)
        return self.conv(features)  # type: ignore[no-any-return] # an untyped module


class MotionEncoder(nn.Module):
    """What the correlations and the flow so far say of the motion."""

    def __init__(self, inner: int, correlation: Sequence[int], flow: Sequence[int], outer: int) -> None:
        super().__init__()
        self.convcorr1 = Convolution(inner, correlation[0], 1)
        self.convcorr2 = Convolution(*correlation, 3) if len(correlation) == 2 else nn.Identity()
        self.convflow1 = Convolution(2, flow[0], 7)
        self.convflow2 = Convolution(*flow, 3)
        self.conv = Convolution(correlation[-1] + flow[-1], outer - 2, 3)

    def forward(self, flow: Tensor, correlation: Tensor) -> Tensor:
        parts = self.convcorr2(self.convcorr1(correlation)), self.convflow2(self.convflow1(flow))
        return torch.cat([self.conv(torch.cat(parts, 1)), flow], 1)


class GRU(nn.Module):
    """A gated recurrent unit of convolutions."""

    def __init__(self, hidden: int, inner: int, size: tuple[int, int]) -> None:
        super().__init__()
        padding = size[0] // 2, size[1] // 2
        self.convz, self.convr, self.convq = (
            nn.Conv2d(hidden + inner, hidden, size, padding=padding) for _ in range(3)
        )

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        both = torch.cat([hidden, x], 1)
        update, reset = self.convz(both).sigmoid(), self.convr(both).sigmoid()
        proposed = self.convq(torch.cat([reset * hidden, x], 1)).tanh()
        return (1 - update) * hidden + update * proposed


class Recurrent(nn.Module):
    """One unit, or two with kernels along the rows and the columns."""

    def __init__(self, hidden: int, inner: int, sizes: Sequence[tuple[int, int]]) -> None:
        super().__init__()
        for n, size in enumerate(sizes, 1):
            self.add_module(f"convgru{n}", GRU(hidden, inner, size))

    def forward(self, hidden: Tensor, x: Tensor) -> Tensor:
        for unit in self.children():
            hidden = unit(hidden, x)
        return hidden


class FlowHead(nn.Module):
    """A change of the flow ``[N, 2, h, w]``."""

    def __init__(self, inner: int, hidden: int) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(inner, hidden, 3, padding=1)
        self.conv2 = nn.Conv2d(hidden, 2, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv2(self.conv1(x).relu())  # type: ignore[no-any-return] # an untyped module


class Update(nn.Module):
    """One step of the recurrence: the next hidden state, and a change of the flow."""

    def __init__(self, motion_encoder: MotionEncoder, recurrent_block: Recurrent, flow_head: FlowHead) -> None:
        super().__init__()
        self.motion_encoder, self.recurrent_block, self.flow_head = motion_encoder, recurrent_block, flow_head

    def forward(self, hidden: Tensor, context: Tensor, correlation: Tensor, flow: Tensor) -> tuple[Tensor, Tensor]:
        motion = self.motion_encoder(flow, correlation)
        hidden = self.recurrent_block(hidden, torch.cat([context, motion], 1))
        return hidden, self.flow_head(hidden)


class MaskPredictor(nn.Module):
    """Logits ``[N, 9 s s, h, w]`` of the nine coarse neighbours that each fine pixel is a mean of."""

    def __init__(self, inner: int, hidden: int, stride: int) -> None:
        super().__init__()
        self.convrelu = Convolution(inner, hidden, 3)
        self.conv = nn.Conv2d(hidden, 9 * stride * stride, 1)

    def forward(self, x: Tensor) -> Tensor:
        return self.conv(self.convrelu(x)) / 4  # type: ignore[no-any-return] # an untyped module
