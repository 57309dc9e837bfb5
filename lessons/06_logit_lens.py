# %% [markdown]
"""What does the lens miss: do early layers know nothing, or do we read them wrongly?

What you will learn: to read every layer at every position with the logit lens, and to train a translator for each layer
in one matmul, so that you see which part of "early layers know nothing" is the lens' own fault.

Hook points used: hook_embed, blocks.i.hook_resid_post

Needs: lesson 4

Time: 25 minutes to read, 20 seconds to run

Paper: nostalgebraist 2020, interpreting GPT: the logit lens; Belrose et al. 2023, Eliciting Latent Predictions from
Transformers with the Tuned Lens (trained by gradient descent on KL; here by ridge regression)
"""

# %% Set-up
import math
from collections.abc import Sequence

from tinymi import Model
from tinymi.arrays import Array
from tinymi.lesson import Lesson, Token, show_token

import numpy as np
import numpy.typing as npt

lesson = Lesson(__doc__)
lesson.option("--prompt", default="The capital of France is", help="the prompt to read")
lesson.option("--answer", metavar="TEXT", help="the answer to follow, one token; without it, what the model says")
options = lesson.start()
model = lesson.load_model()
config = model.config
n_layers = config.n_layers
ln_final, W_U, rms_eps = model.weights.ln_final, model.weights.W_U, config.rms_eps
rng = np.random.default_rng(0)

# The text that the translators learn from, and are tested on. Paragraphs, so that neighbours stay together.
TRAIN = (
    "The ferry left the harbour at seven. A thin rain was falling, and most of the passengers stayed below, where the "
    "tea was hot and the windows were grey. Only the girl with the red scarf stood at the rail. She had promised her "
    "brother to count the seals on the rocks, and she meant to keep her promise, rain or no rain.",
    "A volcano forms where molten rock rises to the surface of the Earth. Some volcanoes erupt gently, and their lava "
    "flows down the slopes like a slow river. Others explode, because gas is trapped in thick magma until the pressure "
    "becomes too great. Ash from a large eruption can cool the climate of the whole planet for a year or two.",
    "def average(values):\n    total = 0\n    for value in values:\n        total += value\n    return total / "
    "len(values)\n\nscores = [12, 15, 9, 20]\nprint(average(scores))\nif average(scores) > 10:\n    print('well "
    "done')\n"
    "else:\n    print('try again')\n",
    '"Have you fed the cat?" asked my mother from the kitchen. "Twice," I said. "She pretends that nobody has." The '
    "cat looked at me as if I had betrayed her. Then she walked to her empty bowl, sat down beside it, and began to "
    "sing. My mother laughed, and of course the cat was given a third breakfast.",
    "To make bread you need only flour, water, salt and yeast. Mix the flour with the salt, dissolve the yeast in "
    "warm water, and knead everything for ten minutes until the dough is smooth. Let it rest under a cloth for an "
    "hour. When it has doubled in size, shape a loaf, wait another half hour, and bake it in a hot oven.",
    "The committee met on Thursday to discuss the new library. The architect showed two plans: a tall building with a "
    "glass front, and a low one around a courtyard. The first was cheaper to heat, the second easier to reach for old "
    "people and for children. After a long debate the members voted for the courtyard, by nine votes to four.",
    "If a train travels at eighty kilometres per hour, it covers two hundred kilometres in two and a half hours. If "
    "it stops for fifteen minutes on the way, the journey takes two hours and forty-five minutes. The average speed "
    "is then a little less than seventy-three kilometres per hour, because the stop counts as well.",
    "Dear Mr Novak, thank you for your letter of 3 March. We are sorry to hear that the lamp arrived with a broken "
    "shade. A new shade will be sent to you this week, free of charge. You need not return the old one. If you have "
    "any further questions, please write to us or call the number below. Yours sincerely, Helen Moss, Customer "
    "Service.",
    "In autumn the storks gather on the meadows behind the village. For a few days they seem to do nothing at all. "
    "Then, on a clear morning with a wind from the north, they rise in circles without moving a wing, higher and "
    "higher, until they are only dots. They fly to Africa, and they come back to the same nests in spring.",
    "The human heart beats about one hundred thousand times a day. It has four chambers: the two upper ones receive "
    "the blood, and the two lower ones pump it out. The right side sends blood to the lungs, where it takes up "
    "oxygen; the left side sends it to the rest of the body. Valves between the chambers keep the blood from flowing "
    "back.",
    "On the first day of school nobody spoke to the new boy. He sat in the last row and drew ships in the margin of "
    "his book. On the second day the teacher asked who could name the oceans. The new boy named all of them, and then "
    "the seas, and then the winds that blow over them. On the third day everyone wanted to sit beside him.",
    "import math\n\nclass Circle:\n    def __init__(self, radius):\n        self.radius = radius\n\n    def "
    "area(self):\n"
    "        return math.pi * self.radius ** 2\n\n    def scale(self, factor):\n        return Circle(self.radius * "
    "factor)\n\nsmall = Circle(1.5)\nlarge = small.scale(2)\nprint(large.area())\n",
    "The price of wheat rose again in June. Farmers in the south blame the drought, which has lasted since April; "
    "traders say that the harbours are full and ships are late. The government has promised to buy less for its own "
    "stores. Whether that will be enough to bring the price of bread down before the winter, nobody in the market "
    "dares to say.",
    "Water is a strange liquid. Most things shrink when they freeze, but water grows, and so ice floats. If it did "
    "not, lakes would freeze from the bottom up, and few fish would live through the winter. Water also takes much "
    "heat to warm and gives it back slowly, which is why an island by the sea has cool summers and mild winters.",
    "Grandfather kept his tools in a long green box. There was a place for each: the hammer at the bottom, the saws "
    "in the lid, the small chisels in a row. When he lent one to a neighbour he put a slip of paper where it had "
    "been, with the name and the date. In forty years, he used to say, he had not lost a single screw, only two "
    "neighbours.",
    "Question: How many sides does a hexagon have? Answer: A hexagon has six sides. Question: What is the square of "
    "twelve? Answer: The square of twelve is one hundred and forty-four. Question: Which planet is closest to the Sun? "
    "Answer: Mercury is closest to the Sun. Question: How many minutes are there in a day? Answer: There are 1440 "
    "minutes in a day.",
    "The old bridge was built by the Romans, of stones so well cut that they needed no mortar. Floods took two of its "
    "arches in the Middle Ages, and soldiers blew up a third in the last war. Each time the town rebuilt it as it had "
    "been. Today only people on foot may cross it, and on summer evenings it is full of them.",
    "You should back up your files every week. Copy them to a second disk and keep that disk in another room, or "
    "better, in another house. A copy beside the computer does not help when there is a fire. And try from time to "
    "time whether the copies can be read: a backup that nobody has ever restored is not a backup but a hope.",
    "Light from the Sun takes a little more than eight minutes to reach us. Light from the nearest other star takes "
    "more than four years, and from the great galaxy in Andromeda two and a half million. When we look at the night "
    "sky we look into the past, and some of the stars that we see may no longer be there.",
    "She opened the piano for the first time since her father's death. The keys were yellow, and three of them made "
    "no sound. She played the waltz that he had taught her, slowly, with holes in the melody where the dead keys "
    "were. Her daughter came in and sat down on the floor. When it was over neither of them said a word for a while.",
    "A thermometer tells you how warm the air is, but not how warm you feel. Wind carries heat away from the skin, "
    "and so a windy day at five degrees feels colder than a calm one at zero. Damp air makes hot days worse, because "
    "sweat does not dry. That is why a weather report often gives two numbers, the one measured and the one felt.",
    "Agent: Good morning, how can I help you?\nCaller: I booked a room for two nights, but I have to leave a day "
    "early.\n"
    "Agent: May I have your name, please?\nCaller: It is Brandt, Sofia Brandt.\nAgent: Thank you. I have changed your "
    "booking. You will get the second night back on your card within a week.\nCaller: That is very kind.\n",
    "The market is held on Wednesdays and Saturdays in the square behind the church. The fish comes from the coast "
    "before dawn. By nine the best cheese is gone, and by noon the sellers begin to shout lower prices, because "
    "nobody wants to carry melons home again. The old women know this, and they never come before half past eleven.",
    "SELECT city, COUNT(*) AS orders, SUM(amount) AS total\nFROM sales\nWHERE year = 2020\nGROUP BY city\nHAVING "
    "COUNT(*) > 100\nORDER BY total DESC\nLIMIT 5;\n\nUPDATE customers\nSET status = 'active'\nWHERE last_order > "
    "'2021-06-30';\n",
    "Iron rusts when water and oxygen reach it. The rust is a new substance, brown and brittle, and it takes up more "
    "room than the iron did, so it breaks off and lets the water in deeper. Paint keeps the water out. So does a thin "
    "coat of zinc, and the zinc has one more advantage: where the coat is scratched, the zinc is eaten first.",
    "My uncle drives a night bus. He says that there are three kinds of passengers: those who sleep, those who talk, "
    "and those who look out of the window as if they had never seen the town before. He likes the third kind best. "
    "Once a man stayed on until the last stop, thanked him, and said that he had been born in every street they "
    "passed.",
    "A contract needs two sides who agree. One makes an offer, the other accepts it, and both must know what they are "
    "agreeing to. It need not be written down: whoever buys an apple makes a contract. But when the sum is large, "
    "paper is better than memory, and a signature is better than paper alone.",
    "Let n be an even number. Then n can be written as two times k, where k is a whole number. The square of n is "
    "four times the square of k, which is two times something, and so it is even too. Now let n be odd. Then n is two "
    "times k plus one, and its square is one more than an even number. So a number and its square are always of the "
    "same kind.",
    "The goalkeeper stood still for a moment, then threw himself to the left. He touched the ball with two fingers, it "
    "struck the post, rolled along the line, and stayed outside. The whole stadium held its breath and then roared. "
    "There were three minutes left to play, and the visitors, who had led since the tenth, never came near the goal "
    "again.",
    "Potatoes came to Europe from the Andes. For a long time people thought them fit only for pigs, or poisonous. A "
    "king, so the story goes, had a field of them guarded by soldiers, who were told to sleep at night, and the "
    "peasants came and stole what must be valuable. Within two generations potatoes fed half of the continent.",
    "git clone the repository, create a virtual environment, and install the package with its test requirements. Then "
    "run the tests. If one of them fails, please open an issue and include the full output, the version of your "
    "system, and the steps that lead to the failure. Small pull requests are easier to review than large ones. Thank "
    "you!",
    "Dear diary, today it rained again and nothing happened, except that the postman brought a parcel for somebody who "
    "does not live here. Father says that we must send it back. Mother says that it is heavy and smells of oranges. We "
    "have put it on the chair by the door, and each of us has looked at it at least ten times since lunch.",
    "An echo is sound that comes back. It travels about three hundred and forty metres in a second, so if you shout "
    "at a cliff and hear yourself after two seconds, the cliff is about as many metres away. Bats do the same with "
    "their high voices and find a moth in the dark; ships do it with the bottom of the sea.",
    "The tailor measured him twice and said nothing. He wrote the numbers into a small book, drew a line, and added "
    "them up, as if a man were a bill. Two weeks later the suit hung in the window, dark blue, with a narrow collar. "
    "It fitted so well that he did not dare to sit down in it until the wedding was over.",
)
TEST = (
    "The museum opens at ten and closes at six, except on Mondays, when it is closed all day. Tickets cost eight "
    "euros; children under twelve pay nothing. A tour of the collection begins every hour in the entrance hall. "
    "Visitors are asked to leave large bags at the desk and not to touch the paintings.",
    "Bees see colours that we cannot. A flower that looks plain yellow to us may have dark lines on it in ultraviolet "
    "light, and these lines lead the bee to the nectar. In return the bee carries pollen from flower to flower. "
    "Without bees there would be few apples, few cherries, and hardly any almonds.",
    "for name in sorted(people):\n    age = people[name]\n    if age < 18:\n        continue\n    print(name, 'is', "
    "age, "
    "'years old')\n\ndef oldest(people):\n    return max(people, key=people.get)\n\nprint(oldest(people))\n",
    '"Where did you leave the car?" asked Martin. "I thought that you had it," said Ruth. They looked at each other. '
    "It was snowing, the last bus had gone, and somewhere in the city, in one of a hundred streets, stood a small "
    "blue car with their keys in it. Then both of them began to laugh at the same moment.",
    "When two numbers are added, their order does not matter: three plus five is eight, and five plus three is eight "
    "as well. The same is true of multiplication. But seven minus two is five, while two minus seven is minus five. "
    "Subtraction and division care about the order, and forgetting that is a common mistake.",
    "The winter of that year was the coldest in living memory. The river froze from bank to bank, and merchants set up "
    "their stalls on the ice. Children skated to school. In February the ice broke with a noise like thunder, and by "
    "March the first boats went down to the sea again, loaded with timber and salt.",
    "Dear Julia, I hope that this letter finds you well. We arrived safely on Sunday after a long drive. The house is "
    "smaller than in the pictures, but the garden runs down to the lake, and the children are in the water from "
    "morning to night. Please come and visit us before the summer is over. With love from all of us, Anne.",
    "A good experiment changes one thing at a time. If you water one plant more and also move it into the sun, you "
    "cannot know which of the two made it grow. Keep a second plant as it was, and compare. And repeat the whole with "
    "many plants, because a single one may simply have been stronger from the start.",
)

# %% 1. Every layer, every position
lesson.section("1. Every layer, every position")
lesson.say(
    "The logit lens (lesson 4) holds the model's own last two steps, the final norm and the unembedding, over a stream "
    "in the middle of the model. Here over every layer and every position of one prompt. Each cell is the token that "
    "would be said next at that position if the model ended there; the last row is what it really says. Look at the "
    "row `embed`: that is the token alone, before any layer."
)
POINTS = ["hook_embed", *(f"blocks.{layer}.hook_resid_post" for layer in range(n_layers))]


Integers = npt.NDArray[np.int64]


def streams_of(model: Model, text: str) -> Array:
    """The stream before and after every layer: [1 + n_layers, pos, d_model]."""
    _, cache = model.run_with_cache(model.to_tokens(text), POINTS, positions=-1)
    return np.stack([cache[point][0] for point in POINTS])


def normed(resid: Array) -> Array:
    """Each stream divided by its size, as the final norm does before its weight: [..., d_model]."""
    found: Array = resid / np.sqrt(np.mean(np.square(resid), axis=-1, keepdims=True) + rms_eps)
    return found


def log_probabilities(unit: Array) -> Array:
    """What normed streams [row, d_model] say: the norm's weight, the unembedding, log softmax: [row, d_vocab]."""
    logits = (unit * ln_final) @ W_U
    logits -= logits.max(axis=-1, keepdims=True)
    logits -= np.log(np.exp(logits).sum(axis=-1, keepdims=True))
    return logits


def kl_bits(log_p: Array, log_q: Array) -> Array:
    """KL(p || q) in bits of each row: how far a reading q is from the model's final prediction p."""
    found: Array = (np.exp(log_p) * (log_p - log_q)).sum(axis=-1) / math.log(2)
    return found


tokens = model.to_tokens(options.prompt)
streams = streams_of(model, options.prompt)  # [1 + n_layers, pos, d_model]
n_rows, n_pos = streams.shape[:2]
read = log_probabilities(normed(streams).reshape(-1, config.d_model)).reshape(n_rows, n_pos, -1)
answer = int(read[-1, -1].argmax()) if options.answer is None else model.to_single_token(options.answer)
answer_text = model.to_str_tokens([answer])[0]
row_labels = ["embed", *range(n_layers)]
str_tokens = model.to_str_tokens(tokens[0])
best = read.argmax(axis=-1)  # [1 + n_layers, pos]
pieces = {int(token): model.to_str_tokens([int(token)])[0] for token in np.unique(best)}
shown_pos = list(range(max(0, n_pos - 8), n_pos))
lesson.heatmap(
    np.exp(read.max(axis=-1))[:, shown_pos],
    row_labels=row_labels,
    column_labels=[Token(str_tokens[position]) for position in shown_pos],
    texts=[[Token(pieces[int(best[row, position])]) for position in shown_pos] for row in range(n_rows)],
    row_axis="layer",
    column_axis="at the token",
    color="probability",
    caption="likeliest next token by the logit lens, coloured by its probability"
    + (" (the last eight positions)" if len(shown_pos) < n_pos else ""),
    center=None,
)

# %% 2. The last position
lesson.section("2. The last position: rank, probability, distance")


def rank_of(log_p: Array, token: int) -> Integers:
    """1 is the likeliest: [..., d_vocab] -> [...]."""
    found: Integers = 1 + (log_p > log_p[..., token, None]).sum(axis=-1)
    return found


def top_pieces(log_p: Array, n: int) -> list[str]:
    return model.to_str_tokens([int(token) for token in np.argsort(-log_p, kind="stable")[:n]])


last = read[:, -1]  # [1 + n_layers, d_vocab]
rank, distance = rank_of(last, answer), kl_bits(last[-1], last)
lesson.say(
    f"The answer to follow is {show_token(answer_text)}. KL is the distance from this layer's reading to the model's "
    "final prediction, in bits: 0 when they are the same. It asks about the whole prediction, not about one token. "
    "Look whether the distance shrinks steadily, or stays and then falls."
)
lesson.table(
    ["layer", "rank", "probability", "KL", "the five likeliest"],
    [
        [row_labels[row], int(rank[row]), float(np.exp(last[row, answer])), float(distance[row]),
         " ".join(show_token(piece) for piece in top_pieces(last[row], 5))]
        for row in range(n_rows)
    ],
    caption="the last position through the raw lens",
    formats={"probability": ".4f", "KL": ".2f", "rank": ","},
)  # fmt: skip

# %% 3. A translator for each layer
lesson.section("3. A translator for each layer")
lesson.say(
    "The lens assumes that every layer speaks the language of the last one. Need it? A layer may hold the same "
    "knowledge turned into other directions, and later layers turn it back. So we give each layer a translator: one "
    "matrix and one vector that make of its stream what the last layer's stream will be, as well as a linear map can. "
    f"They are fitted by ridge regression on {len(TRAIN)} paragraphs and tested on {len(TEST)} others, which are in "
    f"this file. A matrix has {config.d_model} x {config.d_model} numbers, so with a few thousand tokens it could "
    "learn its text by heart: that is what the held-out text is for, and the penalty, which is chosen on the last "
    "quarter of the training paragraphs."
)
lesson.code(
    """
x = stream of the layer, divided by its size    # [token, d_model]
y = the last layer's, divided by its size       # [token, d_model]
# X, Y: these less their means, mean_x and mean_y
A = solve(X.T @ X + penalty * identity, X.T @ Y)
# then the norm's weight and the unembedding, as ever
translated = mean_y + (x - mean_x) @ A
# control: it knows nothing of the token
bias only  = mean_y
""",
    caption="a tuned lens in one matmul",
)


def gather(model: Model, texts: Sequence[str]) -> tuple[Array, Integers]:
    """Normed streams of all positions but the first of each text, and the text of each: [1 + n_layers, token, d_model]
    and [token]."""
    parts = [normed(streams_of(model, text))[:, 1:] for text in texts]
    owner = np.repeat(np.arange(len(parts)), [part.shape[1] for part in parts])
    return np.concatenate(parts, axis=1), owner


train, train_owner = gather(model, TRAIN)
test, test_owner = gather(model, TEST)
fit_rows = train_owner < len(TRAIN) * 3 // 4  # the rest chooses the penalty


def solve_ridge(x: Array, y: Array, penalty: float) -> tuple[Array, Array, Array]:
    """The matrix [d, d] and the two means of the ridge regression of y on x, both [token, d]; penalty per token."""
    mean_x, mean_y = x.mean(axis=0), y.mean(axis=0)
    X, Y = (x - mean_x).astype(np.float64), (y - mean_y).astype(np.float64)
    gram = X.T @ X + penalty * len(X) * np.eye(X.shape[1])
    return np.linalg.solve(gram, X.T @ Y).astype(np.float32), mean_x, mean_y


def translate(x: Array, translator: tuple[Array, Array, Array]) -> Array:
    A, mean_x, mean_y = translator
    translated: Array = mean_y + (x - mean_x) @ A
    return translated


def left_over(x: Array, y: Array, translator: tuple[Array, Array, Array]) -> float:
    """The share of y's variance that the translation leaves unexplained."""
    return float(np.square(y - translate(x, translator)).sum() / np.square(y - translator[2]).sum())


PENALTIES = (0.003, 0.01, 0.03, 0.1, 0.3, 1.0)
probed = sorted({round(i * (n_rows - 2) / 4) for i in range(5)})  # a few rows are enough to choose one penalty for all
penalty_errors = {
    penalty: float(
        np.mean([
            left_over(
                train[row, ~fit_rows], train[-1, ~fit_rows],
                solve_ridge(train[row, fit_rows], train[-1, fit_rows], penalty),
            )
            for row in probed
        ])
    )
    for penalty in lesson.progress(PENALTIES, "choosing the penalty", len(PENALTIES))
}  # fmt: skip
penalty = min(penalty_errors, key=lambda p: penalty_errors[p])
translators = [
    solve_ridge(train[row], train[-1], penalty) for row in lesson.progress(range(n_rows), "translators", n_rows)
]
lesson.say(
    f"{train.shape[1]:,} tokens to learn from, {test.shape[1]:,} held out. The share of variance left unexplained on "
    "the part of the training text that chooses: "
    + ", ".join(f"{error:.2f} with penalty {p:g}" for p, error in penalty_errors.items())
    + f". Chosen: {penalty:g}."
)

# %% 4. Raw, bias only, translated
lesson.section("4. Raw lens, bias only, translated")
N_SCORED = 160
scored_rows = sorted({round(i * (n_rows - 1) / 10) for i in range(11)})


def pick(n: int) -> Integers:
    """N_SCORED of n tokens, evenly spread."""
    chosen: Integers = np.unique(np.linspace(0, n - 1, min(N_SCORED, n)).round().astype(np.int64))
    return chosen


def score(x: Array, final: Array, row: int) -> dict[str, Array]:
    """KL and agreement with the model's top-1 of the three readings of one row: each [token]."""
    log_p = log_probabilities(final)
    bias = log_probabilities(translators[row][2][None])
    readings = {
        "raw": log_probabilities(x),
        "bias only": np.broadcast_to(bias, log_p.shape),
        "translated": log_probabilities(translate(x, translators[row])),
    }
    top = log_p.argmax(axis=-1)
    return {
        **{name: kl_bits(log_p, log_q) for name, log_q in readings.items()},
        **{f"{name} top-1": (log_q.argmax(axis=-1) == top).astype(np.float32) for name, log_q in readings.items()},
    }


train_pick, test_pick = pick(train.shape[1]), pick(test.shape[1])
scores = {
    name: [
        score(data[row, chosen], data[-1, chosen], row)
        for row in lesson.progress(scored_rows, f"scoring {name}", len(scored_rows))
    ]
    for name, data, chosen in (("train", train, train_pick), ("test", test, test_pick))
}
lesson.say(
    "How far is each reading from what the model will say, in bits? `bias only` always says the same, whatever the "
    "token: what the model says on average. A raw lens that is worse than that does not show ignorance; it shows that "
    "we read in the wrong language. And compare the columns of the training text with those of the held-out text: what "
    "is better only on the former was learnt by heart."
)
lesson.table(
    ["layer", "raw", "bias only", "translated", "raw ", "bias only ", "translated "],
    [
        [row_labels[row], *(float(scores[name][i][kind].mean()) for name in ("train", "test")
                            for kind in ("raw", "bias only", "translated"))]
        for i, row in enumerate(scored_rows)
    ],
    caption=f"KL in bits, mean over {len(train_pick)} tokens of the training text (first three columns) and "
    f"{len(test_pick)} of the held-out text (last three)",
    formats=dict.fromkeys(["raw", "bias only", "translated", "raw ", "bias only ", "translated "], ".2f"),
)  # fmt: skip
lesson.lines(
    [row - 1 for row in scored_rows],
    {kind: [float(entry[kind].mean()) for entry in scores["test"]] for kind in ("raw", "bias only", "translated")},
    caption="KL from the final prediction on held-out text (layer -1 is the embedding)",
    x_label="layer",
    y_label="bits",
    format=".2f",
)
lesson.table(
    ["layer", "raw", "bias only", "translated"],
    [
        [
            row_labels[row],
            *(float(scores["test"][i][f"{kind} top-1"].mean()) for kind in ("raw", "bias only", "translated")),
        ]
        for i, row in enumerate(scored_rows)
    ],
    caption="how often each reading's likeliest token is the one the model will say, held-out text",
    formats=dict.fromkeys(["raw", "bias only", "translated"], ".0%"),
)
early = [i for i, row in enumerate(scored_rows) if 0 < row <= n_layers // 2]  # the first half of the layers
if not early:
    early = [0]


def early_kl(name: str, kind: str) -> Array:
    """Mean KL over the scored rows of the first half of the layers: [token]."""
    found: Array = np.mean([scores[name][i][kind] for i in early], axis=0)
    return found


def by_paragraph(values: Array, owner: Integers) -> tuple[float, float, float]:
    """Mean and 95 % interval; whole paragraphs are drawn again and again, as their tokens belong together."""
    groups = [values[owner == paragraph] for paragraph in np.unique(owner)]
    sums, counts = np.array([group.sum() for group in groups], dtype=np.float64), np.array([len(g) for g in groups])
    drawn = rng.integers(0, len(groups), (5000, len(groups)))
    means = sums[drawn].sum(axis=1) / counts[drawn].sum(axis=1)
    low, high = np.percentile(means, [2.5, 97.5])
    return float(values.mean()), float(low), float(high)


raw, bias, translated = (early_kl("test", kind) for kind in ("raw", "bias only", "translated"))
fault = {"bias": float((raw - bias).mean()), "matrix": float((bias - translated).mean())}
lesson.say(
    f"In the first half of the layers the raw lens is {raw.mean():.2f} bits from the final prediction, held-out text. "
    f"Knowing only what the model says on average gives {bias.mean():.2f}, and the translator {translated.mean():.2f}. "
    f"So of the raw lens' distance {fault['bias']:+.2f} bits go with a constant, {fault['matrix']:+.2f} more with a "
    f"translation of what the layer knows, and {translated.mean():.2f} remain: what is really not there yet, or not to "
    "be had by a linear map learnt from so little text. The last layer needs no translation, and its translator is "
    f"{scores['test'][-1]['translated'].mean():.2f} bits off all the same: that is the price of the penalty, which "
    "pulls every translation towards the constant."
)

# %% 5. The prompt, translated
lesson.section("5. The prompt again, translated")
translated_streams = np.stack([translate(normed(streams[row]), translators[row]) for row in range(n_rows)])
read_translated = log_probabilities(translated_streams.reshape(-1, config.d_model)).reshape(n_rows, n_pos, -1)
last_translated = read_translated[:, -1]
rank_translated, distance_translated = rank_of(last_translated, answer), kl_bits(last[-1], last_translated)
lesson.say(
    f"The same prompt, which is in neither text. Look at the ranks of {show_token(answer_text)} side by side: from "
    "which layer on does the translated lens see it coming?"
)
lesson.table(
    ["layer", "raw: rank", "KL", "likeliest", "translated: rank", "KL ", "likeliest "],
    [
        [row_labels[row], int(rank[row]), float(distance[row]), Token(top_pieces(last[row], 1)[0]),
         int(rank_translated[row]), float(distance_translated[row]), Token(top_pieces(last_translated[row], 1)[0])]
        for row in range(n_rows)
    ],
    caption="the last position through both lenses",
    formats={"raw: rank": ",", "translated: rank": ",", "KL": ".2f", "KL ": ".2f"},
)  # fmt: skip


def for_good(ranks: Integers, bar: int) -> int | None:
    """The first layer from which on the rank stays at the bar or better."""
    behind = np.flatnonzero(ranks[1:] > bar)
    first = int(behind[-1]) + 1 if len(behind) else 0
    return first if first < len(ranks) - 1 else None


seen = {bar: (for_good(rank, bar), for_good(rank_translated, bar)) for bar in (100, 10, 1)}
lesson.table(
    ["the answer stays in the top", "raw, from layer", "translated, from layer"],
    [[bar, *layers] for bar, layers in seen.items()],
    caption=f"the last layer is {n_layers - 1}; a dash: never",
)

# %% 6. Checks and what was found
lesson.section("6. Checks and what was found")
logits = model(tokens, positions=-1)[0]  # [1, d_vocab]
shifted = logits - logits.max(axis=-1, keepdims=True)
lesson.check(
    "the last row of the lens is the model's prediction (log probabilities)",
    float(np.abs(last[-1] - (shifted - np.log(np.exp(shifted).sum(axis=-1, keepdims=True)))[0]).max()),
    1e-3,
)
lesson.check(
    "the row `embed` is the token's own embedding", float(np.abs(streams[0] - model.weights.W_E[tokens[0]]).max()), 0.0
)


def gradient(row: int) -> float:
    """How far a translator is from the minimum of what ridge regression minimises (relative)."""
    A, mean_x, mean_y = translators[row]
    X, Y = (train[row] - mean_x).astype(np.float64), (train[-1] - mean_y).astype(np.float64)
    slope = X.T @ (X @ A - Y) + penalty * len(X) * A
    return float(np.abs(slope).max() / np.abs(X.T @ Y).max())


middle = n_rows // 2
lesson.check(
    "the translators solve their equations (relative)", max(gradient(row) for row in (0, middle, n_rows - 1)), 1e-3
)
lesson.check("KL is never negative (bits)", float(max(0.0, -min(x.min() for x in (raw, bias, translated)))), 1e-4)
whole = solve_ridge(train[middle], train[-1], 1e9)
lesson.check(
    "with an endless penalty a translator is the bias alone",
    float(np.abs(translate(test[middle, :10], whole) - whole[2]).max()),
    1e-3,
)
own = np.concatenate([model.to_tokens(text)[0, 1:] for text in TEST])[test_pick]
says_itself = float((log_probabilities(test[0, test_pick]).argmax(axis=-1) == own).mean())
tied = bool(np.shares_memory(model.weights.W_E, W_U) or np.array_equal(model.weights.W_E[:8].T, W_U[:, :8]))
embed_agrees = scores["test"][0]["translated top-1"]
lesson.finding(
    "The embedding row alone, read by the raw lens, says the token itself.",
    established=says_itself > 0.9,
    evidence=f"for {says_itself:.0%} of {len(own)} held-out tokens; its likeliest token is what the model says next "
    f"for {scores['test'][0]['raw top-1'].mean():.0%}",
    control=f"translated, it says what the model says next for {embed_agrees.mean():.0%} (bias only "
    f"{scores['test'][0]['bias only top-1'].mean():.0%}); "
    + ("embedding and unembedding are one matrix here" if tied else "embedding and unembedding are two matrices here"),
)
mean, low, high = by_paragraph(raw - translated, test_owner[test_pick])
lesson.finding(
    "Early layers know more than the raw lens shows.",
    established=low > 1,
    evidence=f"first half of the layers, held-out text: {raw.mean():.2f} bits raw, {translated.mean():.2f} translated; "
    f"difference {mean:+.2f}, 95 % interval over paragraphs [{low:+.2f}, {high:+.2f}]",
    control=f"the constant alone gives {bias.mean():.2f}: most of the difference may need no knowledge of the token at "
    "all, which is why the next finding is needed; the bar is an interval above 1 bit",
)
mean, low, high = by_paragraph(bias - translated, test_owner[test_pick])
gain_on_train = float((early_kl("train", "bias only") - early_kl("train", "translated")).mean())
lesson.finding(
    "And more than a constant could: the translators carry over what the layer knows of this token.",
    established=low > 0.25,
    evidence=f"{bias.mean():.2f} bits with the constant, {translated.mean():.2f} translated; difference {mean:+.2f}, "
    f"95 % interval [{low:+.2f}, {high:+.2f}]",
    control=f"on the training text the difference is "
    f"{(early_kl('train', 'bias only') - early_kl('train', 'translated')).mean():+.2f}; what that has more was learnt "
    "by heart; the bar is an interval above 0.25 bits",
)
excess = float(translated.mean() - early_kl("train", "translated").mean())
lesson.finding(
    "The translators have not merely learnt their text by heart.",
    established=excess < mean,
    evidence=f"{early_kl('train', 'translated').mean():.2f} bits on the training text, {translated.mean():.2f} on "
    f"held-out text: {excess:+.2f} is over-fitting",
    control=f"what they gain over the constant on held-out text: {mean:+.2f}; the bar is that this is the larger",
)
lesson.say(
    "What this does not say. A translator is fitted to say what the model will say; that a linear map can find it in a "
    "layer does not mean that the model has it ready there, or uses it. A larger text would make better translators: "
    "Belrose et al. use millions of tokens. And the remaining distance is partly real: the model has work left to do."
)
lesson.json["prompt"] = {
    "prompt": options.prompt, "tokens": str_tokens, "answer": answer_text, "answer_id": answer,
    "layers": [
        {"layer": None if row == 0 else row - 1, "rank": int(rank[row]),
         "probability": float(np.exp(last[row, answer])), "kl": float(distance[row]),
         "translated_rank": int(rank_translated[row]),
         "translated_kl": float(distance_translated[row]),
         "translated_probability": float(np.exp(last_translated[row, answer])),
         "top": [
             {"position": position, "tokens": top_pieces(read[row, position], 5),
              "probabilities": np.exp(np.sort(read[row, position])[::-1][:5]).tolist(),
              "translated": top_pieces(read_translated[row, position], 5)}
             for position in range(n_pos)
         ]}
        for row in range(n_rows)
    ],
}  # fmt: skip
lesson.json["text"] = {
    "train_tokens": int(train.shape[1]), "test_tokens": int(test.shape[1]), "penalty": penalty,
    "penalty_errors": [{"penalty": p, "unexplained": error} for p, error in penalty_errors.items()],
}  # fmt: skip
lesson.json["scores"] = [
    {"layer": None if row == 0 else row - 1,
     **{name: {kind: float(values.mean()) for kind, values in scores[name][i].items()} for name in ("train", "test")}}
    for i, row in enumerate(scored_rows)
]  # fmt: skip
lesson.json["early"] = {
    "raw": float(raw.mean()), "bias_only": float(bias.mean()), "translated": float(translated.mean()),
    "translated_on_train": float(early_kl("train", "translated").mean()), "says_itself": says_itself,
}  # fmt: skip
lesson.json["stays_in_top"] = [{"top": bar, "raw": a, "translated": b} for bar, (a, b) in seen.items()]
quarter = min(n_rows - 1, 1 + n_layers // 4)
sizes = np.linalg.svd(translators[quarter][0], compute_uv=False)
lesson.exercise(
    f"How many of the {config.d_model} singular values of layer {quarter - 1}'s translator are larger than a tenth of "
    "the largest?",
    answer=int((sizes > 0.1 * sizes[0]).sum()),
    hint="np.linalg.svd(A, compute_uv=False)",
    minutes=5,
    difficulty="easy",
)
average_says = top_pieces(log_probabilities(translators[0][2][None])[0], 3)
lesson.exercise(
    "What does the bias alone say? Give its three likeliest tokens.",
    answer=" ".join(show_token(piece) for piece in average_says),
    hint="log_probabilities(mean_y[None]); all layers have the same mean_y",
    minutes=5,
    difficulty="easy",
)
few = train_owner < 5
small = solve_ridge(train[quarter, few], train[-1, few], penalty)
few_kl = kl_bits(
    log_probabilities(test[-1, test_pick]), log_probabilities(translate(test[quarter, test_pick], small))
).mean()
lesson.exercise(
    f"Fit layer {quarter - 1}'s translator on the first five paragraphs only. What is its KL on the held-out text?",
    answer=f"{few_kl:.2f} bits",
    hint="train_owner says which paragraph a token is from; keep the penalty",
    minutes=10,
    difficulty="medium",
)
lesson.finish()
