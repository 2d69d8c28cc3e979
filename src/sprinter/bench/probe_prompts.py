"""Twenty openings for `sprinter plan` where no prompts are given: plain prose on unlike subjects."""

PROBE_PROMPTS = (
    "A compiler is",
    "The main difference between a virus and a bacterium is",
    "Once upon a time, in a village by the sea,",
    "To bake a loaf of bread, first",
    "The river rises in the mountains and",
    "In mathematics, a prime number",
    "The orchestra tuned its instruments while",
    "When the price of a good rises, people usually",
    "def fibonacci(n):\n    ",
    "The museum holds a collection of",
    "Photosynthesis is the process by which",
    "Dear neighbour, I am writing to you because",
    "The bridge was built in the nineteenth century and",
    "A good way to learn a new language is",
    "The rules of the game are simple:",
    "After the storm, the sailors",
    "The heart pumps blood through",
    "Three reasons to plant trees in a city are",
    "Iron rusts when",
    "The committee met on Tuesday to discuss",
)
