"""Solution 7: both displayed orders of a list in one row, the shared prefix read once."""
import torch

from alro import Batch


def packed_target_logits(model, batch: Batch) -> tuple[torch.Tensor, torch.Tensor, torch.Tensor]:
    # B lists; T tokens in a row of the batch, T' in a packed row. Not for models with a sliding window: the mask given
    # here replaces the model's own. Not through a LoRA wrapper: unwrap it first, as alro.target_logits does.
    lists, m = len(batch.input_ids) // 2, batch.slots.shape[-1]
    one, two = batch.input_ids[:lists], batch.input_ids[lists:]  # (B, T) each
    answer_at = batch.prompt_tokens.unsqueeze(-1)  # (2 B, 1) where the answer begins
    end_one, end_two = (answer_at + m).split(lists)  # (B, 1) tokens of a row, its pads not counted
    # Tokens before the first difference. cumprod is 1 until then and 0 ever after. Pads could agree as well: cut there.
    shared = (one == two).long().cumprod(-1).sum(-1, keepdim=True)  # (B, 1)
    shared = shared.minimum(end_one).minimum(end_two)

    # Packed place t holds row 1's token t, as far as row 1 goes; then row 2 goes on from where it stops being shared.
    t = torch.arange((end_one + end_two - shared).max().item(), device=one.device)  # (T',)
    second = t >= end_one  # (B, T') the token comes from row 2
    shift = end_one - shared  # (B, 1) how far row 2's own tokens have moved
    place = torch.where(second, t - shift, t).clamp(max=one.shape[1] - 1)  # (B, T') where it stood; pads: anywhere
    tokens = torch.where(second, two.gather(1, place), one.gather(1, place))  # (B, T')

    # Who may look at whom: key k is not after query q, and is shared or of the same part. Pads come last, so that no
    # token that counts sees one; they see the shared part and themselves, so that no row of the softmax is empty.
    part = torch.where(second, 2, torch.where(t < shared, 0, 1))  # (B, T')
    key, query = part.unsqueeze(-2), part.unsqueeze(-1)  # (B, 1, T'), (B, T', 1)
    mask = ((key == 0) | (key == query)) & (t <= t.unsqueeze(-1))  # (B, T', T')

    # A token's own place is its position id: the model cannot tell that it was moved.
    hidden = model.base_model(input_ids=tokens, attention_mask=mask.unsqueeze(1), position_ids=place,
                              use_cache=False).last_hidden_state  # (B, T', d)

    # From here as in alro.target_logits, with row 2's places moved along, unless they lie in the shared part.
    k = torch.arange(m, device=one.device)  # (m,)
    places = torch.cat([answer_at + k, batch.history_at, batch.candidate_at], dim=-1)  # (2 B, m + H + m)
    at_one, at_two = (places - 1).split(lists)  # (B, m + H + m) each
    at_two = torch.where(at_two < shared, at_two, at_two + shift)
    at = torch.cat([at_one, at_two], dim=1).unsqueeze(-1).expand(-1, -1, hidden.shape[-1])  # (B, 2 (m + H + m), d)
    logits = model.get_output_embeddings()(hidden.gather(1, at)).float()  # (B, 2 (m + H + m), V)
    logits = torch.cat(logits.chunk(2, dim=1))  # (2 B, m + H + m, V)
    return logits[:, :m], logits[:, m:-m], logits[:, -m:]
