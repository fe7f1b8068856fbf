"""What the demo shows of the papers' claims, measured pair by pair on combinations of attributes held out of the training.

pairs        the scenes that everything is measured on: the one module that knows which they are
judge        a small classifier that reads them; train_judge makes it
conditions   one way of making pictures; experiments has all tables, claims what they are held against
chunk        pairs of scenes and what is shown and wanted of them; models and pictures make and measure the images
ablations    one command that measures it all and goes on where it was stopped; ablation_units says what it makes
store        what is stored; measures, summary and page make tables, verdicts and the page of it
neighbours   how RefAdGen and Strictly-ID are measured; neighbour_refadgen, neighbour_strict_id and neighbours_together are the
             commands, engines what they put into a sampling, rulers what they read without a network
layers       what each of the U-Net's cross-attentions carries of a reference, and when
"""
