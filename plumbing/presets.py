"""Other defaults for train.py's flags (--preset NAME); a flag on the command line wins over its preset."""

PRESETS = {
    "demo": {},
    "small-gpu": dict(
        model="HuggingFaceTB/SmolLM2-135M-Instruct", dataset="ml-100k", noun="movie",
        fields="title,category,average", list_size=10, history_size=20,
        steps=None, batch_size=32, lr=3e-4, alpha=1.0, beta=1.0,
        display_order="shuffled", grad_accum=4, test_lists=None),
    # Never run. GUESS: all but the dataset, which is one of those that the paper uses (summary L).
    "paper": dict(
        model="meta-llama/Llama-2-7b-hf", dataset="ml-1m", list_size=10, history_size=20,
        steps=None, epochs=5.0, batch_size=64, lr=1e-4, alpha=1.0, beta=1.0,
        display_order="shuffled", lora_rank=8, grad_accum=16, test_lists=0),
}
