"""Recurrent encoder-decoders with attention, in the paper's form and in one that runs all target steps at once.

The encoder's first layer is bidirectional, the others read backwards and forwards in turn. A decoder's first layer reads the
target's words and looks at the source; the layers above read its states and contexts; a deep output predicts the next word:

    conditional   s'_t = LSTM(y_t-1, s_t-1);  c_t = attention(s'_t);  s_t = LSTM(c_t, s'_t)     step by step
    stacked       s_t  = LSTM(y_t-1, s_t-1);  c_t = attention(s_t)                            all steps in one call
    output        p(y_t) = softmax(W tanh(V [s_t of the last layer, y_t-1, c_t]))

S source steps, T target steps, B batch, R rows of B sentences, E embedding, H hidden units, M = 2H or H of the memory,
V target vocabulary.
"""

from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.utils.rnn import pack_padded_sequence, pad_packed_sequence

from g2lstm import gates, layout
from g2lstm.cell import G2LSTMCell
from g2lstm.engines.precision import accumulation_dtype
from g2lstm.engines.products import product
from g2lstm.gates import Gate, GumbelGate
from g2lstm.layers.attention import Attention, Memory
from g2lstm.layers.output import OutputLayer
from g2lstm.layers.regularization import dropout, embed
from g2lstm.layout import State
from g2lstm.lstm import G2LSTM

PAD, UNK, BOS, EOS = range(4)  # the first sub-words of every vocabulary: <pad>, <unk>, <s>, </s>
DECODERS = ("conditional", "stacked")
TIED = ("none", "target", "all")

# (h, c) of each layer, (R, H), and the last step's (R, E) features where they are fed in again.
DecoderState = tuple[tuple[State, ...], tuple[Tensor, ...]]


class StackedLayer(nn.Module):
    """A decoder's first layer whose states, of all steps at once, look at the source."""

    def __init__(self, input_size: int, hidden_size: int, attention: Attention, *, gate: Gate | None, engine: str) -> None:
        super().__init__()
        self.lstm = G2LSTM(input_size, hidden_size, gate=gate, engine=engine)
        self.attention = attention

    def forward(self, x: Tensor, state: State, memory: Memory) -> tuple[Tensor, Tensor, Tensor, State]:
        """(T, R, D) input -> (T, R, H) states, (T, R, M) contexts, (T, R, S) attention, the last (h, c)."""
        h, state = _run(self.lstm, x, state)
        return h, *self.attention(h, memory), state


class ConditionalLayer(nn.Module):
    """A decoder's first layer that makes two transitions a step, on the word and on the context, attention between them."""

    def __init__(
        self, input_size: int, hidden_size: int, memory_size: int, attention: Attention, *, gate: Gate | None
    ) -> None:
        super().__init__()
        self.word = G2LSTMCell(input_size, hidden_size, gate=gate)
        self.context = G2LSTMCell(memory_size, hidden_size, gate=gate)
        self.attention = attention

    def forward(self, x: Tensor, state: State, memory: Memory) -> tuple[Tensor, Tensor, Tensor, State]:
        """As `StackedLayer`."""
        word_noise, context_noise = (_noise(cell, x) for cell in (self.word, self.context))
        steps = []
        for t, word in enumerate(x):
            between = self.word(word, state, noise=word_noise[t])
            context, weights = self.attention(between[0].unsqueeze(0), memory)  # (1, R, ·)
            state = self.context(context[0], between, noise=context_noise[t])
            steps.append((state[0], context[0], weights[0]))
        h, context, weights = (torch.stack(part) for part in zip(*steps, strict=True))
        return h, context, weights, state


class Translator(nn.Module):
    """An encoder-decoder. `Translator(**model.options, gate=...)` builds one of the same kind again.

    Args:
        source_vocabulary, target_vocabulary: numbers of sub-words, of which `<pad>`, `<unk>`, `<s>`, `</s>` are the first.
        embedding_size: E, of both sides, and of the deep output.
        hidden_size: H, of every layer and direction.
        encoder_layers, decoder_layers: numbers of layers; a conditional layer is one.
        decoder: "conditional" or "stacked".
        attention: "dot" or "additive".
        input_feeding: each step also reads the last one's deep output (Luong et al. 2015); no step can then run ahead.
        tied: the output layer's weight is its own ("none"), the target embedding ("target"), or also the source's ("all").
        dropout: on non-recurrent connections (Zaremba et al. 2014), but for the context that a conditional layer's second
            step reads.
        word_dropout: share of sub-words dropped from each side's embedding in a forward pass.
        readout_dropout: on the deep output; as `dropout` where it is None.
        forget_bias: what is added to the forget gates' initial bias.
        embedding_scale: what embeddings, whose initial variance is 1/E, are multiplied by where they are read; sqrt(E) where
            it is None (Vaswani et al. 2017, 1706.03762, 3.4).
        gate, engine: as in `G2LSTM`.
    """

    kind = "translation"

    def __init__(
        self,
        source_vocabulary: int,
        target_vocabulary: int,
        embedding_size: int = 256,
        hidden_size: int = 256,
        encoder_layers: int = 2,
        decoder_layers: int = 2,
        *,
        decoder: str = "conditional",
        attention: str = "additive",
        input_feeding: bool = False,
        tied: str = "none",
        dropout: float = 0.2,
        word_dropout: float = 0.0,
        readout_dropout: float | None = None,
        forget_bias: float = 0.0,
        embedding_scale: float | None = None,
        gate: Gate | None = None,
        engine: str = "auto",
    ) -> None:
        super().__init__()
        self.options: dict[str, Any] = {
            "source_vocabulary": source_vocabulary, "target_vocabulary": target_vocabulary,
            "embedding_size": embedding_size, "hidden_size": hidden_size, "encoder_layers": encoder_layers,
            "decoder_layers": decoder_layers, "decoder": decoder, "attention": attention, "input_feeding": input_feeding,
            "tied": tied, "dropout": dropout, "word_dropout": word_dropout, "readout_dropout": readout_dropout,
            "forget_bias": forget_bias, "embedding_scale": embedding_scale,
        }  # fmt: skip
        rates = dropout, word_dropout, dropout if readout_dropout is None else readout_dropout
        _check(decoder, tied, source_vocabulary, target_vocabulary, rates)
        self.dropout, self.word_dropout, self.readout_dropout = rates
        self.embedding_scale = embedding_size**0.5 if embedding_scale is None else embedding_scale
        self.input_feeding, self.first_word_is_zero = input_feeding, decoder == "conditional"
        memory_size = 2 * hidden_size if encoder_layers == 1 else hidden_size

        self.target_embedding = nn.Embedding(target_vocabulary, embedding_size)
        self.source_embedding = None if tied == "all" else nn.Embedding(source_vocabulary, embedding_size)
        self.output_weight = None if tied != "none" else nn.Parameter(torch.empty(target_vocabulary, embedding_size))
        self.output_bias = nn.Parameter(torch.zeros(target_vocabulary))
        self.output_layer = OutputLayer()

        inputs = [embedding_size, 2 * hidden_size, *[hidden_size] * encoder_layers][:encoder_layers]
        self.encoder = nn.ModuleList(
            G2LSTM(size, hidden_size, bidirectional=number == 0, gate=gate, engine=engine)
            for number, size in enumerate(inputs)
        )
        self.initial = nn.Linear(memory_size, decoder_layers * hidden_size)
        reads, look = embedding_size * (1 + input_feeding), Attention(hidden_size, memory_size, attention)
        self.decoder: StackedLayer | ConditionalLayer  # whose gates the paper's Figures 1, 3 and 4 show
        if decoder == "stacked":
            self.decoder = StackedLayer(reads, hidden_size, look, gate=gate, engine=engine)
        else:
            self.decoder = ConditionalLayer(reads, hidden_size, memory_size, look, gate=gate)
        self.upper_decoder = nn.ModuleList(
            G2LSTM(hidden_size + memory_size, hidden_size, gate=gate, engine=engine) for _ in range(decoder_layers - 1)
        )
        self.readout = nn.Linear(hidden_size + embedding_size + memory_size, embedding_size)
        if input_feeding and isinstance(gate, GumbelGate) and gate.noise_scope != "step":
            raise ValueError(f"noise_scope={gate.noise_scope!r} outlasts a step: it needs input_feeding=False")
        self._initialise(forget_bias)

    @property
    def decoder_weight(self) -> Tensor:
        """(V, E) weight of the output layer."""
        return self.target_embedding.weight if self.output_weight is None else self.output_weight

    def forward(self, source: Tensor, source_lengths: Tensor, inputs: Tensor) -> Tensor:
        """Features that predict the word after each input.

        Args:
            source: (S, B), each sentence with `</s>` and then padding.
            source_lengths: (B,) on the CPU.
            inputs: (T, B), each sentence after `<s>`.

        Returns:
            (T, B, E).
        """
        memory = self.encode(source, source_lengths)
        return self.decode(inputs, self.start(memory), memory)[0]

    def loss(self, features: Tensor, targets: Tensor, *, smoothing: float = 0.0, reduction: str = "mean") -> Tensor:
        """Cross-entropy in nats of (T, B) targets but padding, given (T, B, E) features.

        Args:
            features, targets: of the same steps.
            smoothing: of labels, as in `g2lstm.layers.output`.
            reduction: "mean" over the targets that count, "sum", or "none".

        Returns:
            a scalar, or with reduction "none", which has no gradient, (T, B), 0 at padding.
        """
        flat = targets.flatten()
        kept = (flat != PAD).nonzero().squeeze(1)
        losses: Tensor = self.output_layer(
            features.flatten(0, 1).index_select(0, kept), self.decoder_weight, self.output_bias, flat[kept],
            reduction=reduction, smoothing=smoothing,
        )  # fmt: skip
        if reduction != "none":
            return losses
        return losses.new_zeros(len(flat)).index_copy_(0, kept, losses).view_as(targets)

    def encode(self, source: Tensor, source_lengths: Tensor) -> Memory:
        """Reads (S, B) sub-words of sentences of (B,) lengths, which are on the CPU."""
        embedding = self.target_embedding if self.source_embedding is None else self.source_embedding
        x = self._embed(source, embedding)  # (S, B, E)
        steps = torch.arange(len(source), device=source.device)
        inside = steps < source_lengths.to(source.device).unsqueeze(1)  # (B, S)
        turn = torch.where(inside, source_lengths.to(source.device).unsqueeze(1) - 1 - steps, steps).mT.unsqueeze(-1)
        for number, layer in enumerate(self.encoder):
            backwards = number % 2 == 1
            x = self._dropped(x) if number else x
            x = x.gather(0, turn.expand_as(x)) if backwards else x
            x = _read(layer, x, source_lengths)  # (S, B, 2H), then (S, B, H)
            x = x.gather(0, turn.expand_as(x)) if backwards else x
        return self.decoder.attention.remember(x, inside)

    def start(self, memory: Memory) -> DecoderState:
        """The state before the first word: h = tanh of the projected mean of the memory, c = 0."""
        h = self.initial(memory.mean()).tanh().chunk(1 + len(self.upper_decoder), -1)
        h = [part.contiguous() for part in h]  # (B, H) each; nn.LSTM takes no others on CUDA
        c = torch.zeros_like(h[0], dtype=accumulation_dtype(h[0].dtype))
        fed = (h[0].new_zeros(len(c), self.decoder_weight.shape[1]),) if self.input_feeding else ()
        return tuple((part, c) for part in h), fed

    def decode(self, inputs: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, Tensor, DecoderState]:
        """Reads (T, R) target words from a state on.

        Returns:
            (T, R, E) features, (T, R, S) attention, the state after the last step.
        """
        words = self._embed(inputs, self.target_embedding)  # (T, R, E)
        if self.first_word_is_zero:
            words = words.masked_fill((inputs == BOS).unsqueeze(-1), 0)
        if not self.input_feeding:
            return self._steps(words, state, memory)
        features, weights = [], []
        for word in words.split(1):
            step_features, step_weights, state = self._steps(word, state, memory)
            features.append(step_features)
            weights.append(step_weights)
        return torch.cat(features), torch.cat(weights), state

    def step(self, tokens: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, Tensor, DecoderState]:
        """One step of a search.

        Args:
            tokens: (R,) the last words, R a multiple of the memory's sentences, those of a sentence side by side.
            state: as `start` or the last step gave it, tensors with R rows.
            memory: of the sentences.

        Returns:
            (R, V) log-probabilities in float32, (R, S) attention, the next state.
        """
        features, weights, state = self.decode(tokens.unsqueeze(0), state, memory)
        logits = product(features[0], self.decoder_weight.to(features.dtype), self.output_bias.to(features.dtype))
        return logits.to(accumulation_dtype(logits.dtype)).log_softmax(-1), weights[0], state

    def _steps(self, words: Tensor, state: DecoderState, memory: Memory) -> tuple[Tensor, Tensor, DecoderState]:
        """(T, R, E) words, T = 1 where features are fed in again -> as `decode`."""
        states, fed = state
        x = torch.cat([words, fed[0].unsqueeze(0).to(words.dtype)], -1) if fed else words
        h, context, weights, first = self.decoder(x, states[0], memory)
        after, h, context = [first], self._dropped(h), self._dropped(context)
        for layer, before in zip(self.upper_decoder, states[1:], strict=True):
            h, last = _run(layer, torch.cat([h, context], -1), before)
            h = self._dropped(h)
            after.append(last)
        features = self.readout(torch.cat([h, words.to(h.dtype), context], -1)).tanh()
        features = dropout(features, self.readout_dropout, self.training)
        return features, weights, (tuple(after), (features[-1],) if fed else ())

    def _embed(self, tokens: Tensor, embedding: nn.Embedding) -> Tensor:
        return self._dropped(embed(tokens, embedding, self.word_dropout, self.training) * self.embedding_scale)

    def _dropped(self, x: Tensor) -> Tensor:
        return dropout(x, self.dropout, self.training)

    @torch.no_grad()
    def _initialise(self, forget_bias: float) -> None:
        for module in self.modules():
            if isinstance(module, nn.Linear):
                nn.init.xavier_uniform_(module.weight)
                if module.bias is not None:
                    module.bias.zero_()
            elif isinstance(module, nn.Embedding):
                module.weight.normal_(std=module.embedding_dim**-0.5)
        if self.output_weight is not None:
            self.output_weight.normal_(std=self.output_weight.shape[1] ** -0.5)
        for _, lstm in layout.modules(self):
            for ending in (end for ends in layout.endings(lstm) for end in ends):
                bias = layout.weights(lstm, ending).bias_ih
                assert bias is not None
                bias[layout.rows("f", lstm.hidden_size)] += forget_bias


def _read(lstm: nn.Module, x: Tensor, lengths: Tensor) -> Tensor:
    """(S, B, D) -> the states, 0 beyond a sentence's length."""
    if bool((lengths == len(x)).all()):  # nothing to leave out
        return lstm(x)[0]
    packed, _ = lstm(pack_padded_sequence(x, lengths, enforce_sorted=False))
    return pad_packed_sequence(packed, total_length=len(x))[0]


def _run(lstm: nn.Module, x: Tensor, state: State) -> tuple[Tensor, State]:
    """A layer over (T, R, D) from and to (R, H) states."""
    h, (h_n, c_n) = lstm(x, (state[0].unsqueeze(0), state[1].unsqueeze(0)))
    return h, (h_n[0], c_n[0])


def _noise(cell: G2LSTMCell, x: Tensor) -> Tensor | list[None]:
    """The noise of all steps of (T, R, D), so that it may also be drawn once for a sequence."""
    gate = cell.gate
    if not isinstance(gate, GumbelGate) or not gates.is_noisy(gate, cell.training):
        return [None] * len(x)
    dtype = accumulation_dtype(x.dtype)
    return gates.draw_noise(gate, len(x), x.shape[1], cell.hidden_size, dtype=dtype, device=x.device)


def _check(decoder: str, tied: str, source_vocabulary: int, target_vocabulary: int, rates: tuple[float, ...]) -> None:
    if decoder not in DECODERS:
        raise ValueError(f"decoder must be one of {', '.join(DECODERS)}, got {decoder!r}")
    if tied not in TIED:
        raise ValueError(f"tied must be one of {', '.join(TIED)}, got {tied!r}")
    if tied == "all" and source_vocabulary != target_vocabulary:
        given = f"{source_vocabulary} and {target_vocabulary} sub-words"
        raise ValueError(f"tied='all' needs one joint vocabulary, got {given}: set tied='target'")
    if not all(0 <= rate < 1 for rate in rates):
        raise ValueError(f"dropout, word_dropout and readout_dropout must be in [0, 1), got {', '.join(map(str, rates))}")
