import numpy as np
import pytest
import torch
from torch import nn

from deepmr.deepiv.stages.dropout_draws import dropout_draw
from deepmr.deepiv.stages.networks import ContextNetwork, Design, Dropout, SequenceContexts
from deepmr.draws import keep_mask
from deepmr.genome.alphabet import AMBIGUOUS, encode, one_hot
from deepmr.mutagenesis.masking import DropoutError


def test_sequences_are_given_one_hot_and_masked_bases_as_zeros() -> None:
    codes = np.stack([encode("ACGTN"), encode("NNTTA"), encode("GGGCA")])
    contexts = SequenceContexts(codes)
    assert len(contexts) == 3
    batch = contexts[torch.tensor([2, 1])]
    assert batch.dtype == torch.float32
    np.testing.assert_array_equal(batch.numpy(), one_hot(codes[[2, 1]]))
    assert batch[1, :, codes[1] == AMBIGUOUS].sum() == 0
    with pytest.raises(ValueError, match="uint8"):
        SequenceContexts(codes.astype(np.int64))


def test_the_surface_is_the_network_at_each_value() -> None:
    torch.manual_seed(0)
    encoder = nn.Sequential(nn.Flatten(), nn.Linear(20, 6))
    network = ContextNetwork(6, 1, 1, hidden=(8,), encoder=encoder).eval()
    context, values = torch.randn(5, 4, 5), torch.randn(5, 3)
    surface = network.surface(context, values)
    for j in range(3):
        torch.testing.assert_close(surface[:, j], network(context, values[:, [j]])[:, 0])
    assert surface.std() > 0


def test_an_encoding_is_rectified_and_an_empty_perceptron_is_linear() -> None:
    network = ContextNetwork(2, 0, 1, hidden=(), encoder=nn.Identity())
    with torch.no_grad():
        for parameter in network.parameters():
            parameter.fill_(1.0)
    assert network(torch.tensor([[-3.0, 2.0]])).item() == 1 + 0 + 2


def test_the_other_numbers_must_be_there_or_not() -> None:
    with pytest.raises(ValueError, match="reads 1 numbers"):
        Design(2).build(1, 1)(torch.zeros(3, 2))
    with pytest.raises(ValueError, match="reads 0 numbers"):
        Design(2).build(0, 1)(torch.zeros(3, 2), torch.zeros(3, 1))
    with pytest.raises(ValueError, match="below 1"):
        Design(2, dropout=1.0).build(0, 1)


def test_every_network_of_a_design_has_an_encoder_of_its_own() -> None:
    design = Design(3, encoder=lambda: nn.Linear(4, 3))
    assert design.build(0, 1).encoder is not design.build(0, 1).encoder


@pytest.mark.parametrize("p", [0.2, 0.5])
def test_dropout_drops_its_share_and_keeps_the_mean(p: float) -> None:
    torch.manual_seed(0)
    x = torch.ones(400, 500)
    layer = Dropout(p)
    dropped = layer(x)
    np.testing.assert_allclose(dropped.unique().numpy(), [0, 1 / (1 - p)], rtol=1e-6)
    assert abs((dropped == 0).float().mean() - p) < 5 * (p * (1 - p) / x.numel()) ** 0.5
    assert layer.eval()(x) is x


def test_a_draw_multiplies_by_the_masks_that_deepmr_defines() -> None:
    sites = [nn.Dropout(0.3), Dropout(0.5), nn.Dropout1d(0.5)]
    x = torch.ones(3, 4, 6)
    with torch.no_grad(), dropout_draw(7, 2):
        values = [site.eval()(x) for site in sites]
    for index, (value, p, shape) in enumerate(
        zip(values, (0.3, 0.5, 0.5), ((4, 6), (4, 6), (4, 1)), strict=True)
    ):
        expected = np.broadcast_to(keep_mask(7, index, 2, shape, p) / (1 - p), (3, 4, 6))
        np.testing.assert_allclose(value.numpy(), expected, rtol=1e-6)
    with pytest.raises(DropoutError, match="AlphaDropout"), dropout_draw(7, 2):
        nn.AlphaDropout(0.5)(x)


def test_numbers_stand_beside_the_encoding_of_a_sequence():
    codes = np.random.default_rng(0).integers(0, 5, (6, 12)).astype(np.uint8)
    numbers = np.random.default_rng(1).standard_normal((6, 2))
    rows = torch.tensor([4, 1])
    encoder = torch.nn.Sequential(torch.nn.Flatten(), torch.nn.Linear(48, 3))
    design = Design(3, (), 0.0, lambda: encoder, n_numbers=2)
    network = design.build(1, 1)
    other = torch.tensor([[0.5], [-2.0]])
    plain = SequenceContexts(codes)[rows]
    found = network(SequenceContexts(codes, numbers).to("cpu")[rows], other)
    joined = torch.cat((encoder(plain).relu(), torch.tensor(numbers[[4, 1]]).float(), other), 1)
    torch.testing.assert_close(found, network.perceptron(joined))
    with pytest.raises(ValueError, match=r"shape \(5, 2\) beside 6 sequences; give \(n, k\)"):
        SequenceContexts(codes, numbers[:5])
