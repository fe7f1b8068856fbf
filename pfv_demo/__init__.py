"""The demo's models: their sizes, the tokenizer's words and the trained weights. Data; what makes it is `lab.demo`."""
