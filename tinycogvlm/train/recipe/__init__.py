"""How the bundled model was trained, stage by stage."""

STAGES = {"vision": "the vision transformer, contrasted with words", "language": "the language model, on text alone",
          "stage1": "captions: the visual expert and the adapter", "stage2": "captions and boxes: the same parts",
          "sft": "conversations: the language model too",
          "sft2": "the same, with the learning rate restarted",
          "sft3": "the same, with more texts, writing and single things"}       # in their order
