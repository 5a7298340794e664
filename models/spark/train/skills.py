"""Skills that need no tool: sums, counting, repeating, spelling, names.

Each skill draws one exchange from a `Source`: (prompt, answer, thought).
"""

from values import COLORS, DAYS, EVENTS, ITEMS, NUMBER_WORDS, PRODUCTS

POLITE = ["Please ", "Now ", "OK, ", "Spark, ", "Can you ", "Could you ", "Hey, ", "Can you please ", "Now please "]
ASKING = ["Hey, ", "So, ", "OK, ", "Spark, ", "And ", "Now, ", "Quick: ", "Please tell me: ", "Hi, ", "Next: "]

ADD = ["What is {a} + {b}?", "What is {a}+{b}?", "What is {a} plus {b}?", "{a} + {b}", "{a}+{b}", "{a}+{b}=", "{a} + {b} = ", "{a} + {b} = ?",
       "{a}+{b}?", "{a} plus {b}?", "{a} plus {b}", "How much is {a} + {b}?", "How much is {a} plus {b}?", "Add {a} and {b}.", "Add {a} to {b}.",
       "What's {a} + {b}?", "What's {a} plus {b}?", "Calculate {a} + {b}.", "Compute {a} + {b}.", "Compute {a} plus {b}.", "Calculate {a}+{b}.",
       "What is the sum of {a} and {b}?", "The sum of {a} and {b}?", "Sum {a} and {b}.", "Find the sum of {a} and {b}.", "How much do {a} and {b} make?",
       "What do you get if you add {a} and {b}?", "What do you get when you add {a} and {b}?", "Solve {a} + {b}.", "{a} and {b} makes?", "Tell me {a} + {b}.",
       "What does {a} + {b} equal?", "What does {a} plus {b} equal?", "What is the result of {a} + {b}?", "Give me {a} plus {b}.", "Do you know {a} + {b}?",
       "Can you add {a} and {b}?", "Could you add {a} and {b}?", "Can you tell me {a} + {b}?", "I need {a} + {b}.", "Work out {a} + {b}.", "Evaluate {a} + {b}.",
       "Do the sum {a} + {b}.", "{a} + {b} is what?", "{a} plus {b} is what?", "{a} plus {b} equals?", "{a} + {b} equals?", "Add up {a} and {b}."]

SUBTRACT = ["What is {a} - {b}?", "What is {a}-{b}?", "What is {a} minus {b}?", "{a} - {b}", "{a}-{b}", "{a}-{b}=", "{a} - {b} = ", "{a} - {b} = ?",
            "{a}-{b}?", "{a} minus {b}?", "{a} minus {b}", "How much is {a} - {b}?", "How much is {a} minus {b}?", "Subtract {b} from {a}.", "Take {b} from {a}.",
            "Take {b} away from {a}.", "What's {a} - {b}?", "What's {a} minus {b}?", "Calculate {a} - {b}.", "Compute {a} - {b}.", "Compute {a} minus {b}.", "Calculate {a}-{b}.",
            "What is the difference {a} - {b}?", "What do you get if you subtract {b} from {a}?", "What do you get when you take {b} from {a}?", "Solve {a} - {b}.", "Tell me {a} - {b}.",
            "What does {a} - {b} equal?", "What does {a} minus {b} equal?", "What is the result of {a} - {b}?", "Give me {a} minus {b}.", "Do you know {a} - {b}?",
            "Can you subtract {b} from {a}?", "Could you subtract {b} from {a}?", "Can you tell me {a} - {b}?", "I need {a} - {b}.", "Work out {a} - {b}.", "Evaluate {a} - {b}.",
            "{a} - {b} is what?", "{a} minus {b} is what?", "{a} minus {b} equals?", "{a} - {b} equals?"]


def add_digits(a: int, b: int) -> str:
    ones = a % 10 + b % 10
    return (f"ones {a % 10} + {b % 10} = {ones}, carry {ones // 10}; "
            f"tens {a // 10} + {b // 10} + {ones // 10} = {a // 10 + b // 10 + ones // 10}; result {a + b}")


def subtract_digits(a: int, b: int) -> str:
    borrow = int(a % 10 < b % 10)
    ones = a % 10 + 10 * borrow
    return (f"ones {ones} - {b % 10} = {ones - b % 10}, borrow {borrow}; "
            f"tens {a // 10} - {b // 10} - {borrow} = {a // 10 - b // 10 - borrow}; result {a - b}")


def addition(src):
    a, b = src.until(lambda: (src.operand(), src.operand()))
    thought = f"{a} + {b}: {add_digits(a, b)}."
    answer = f"{a} + {b} = {a + b}."
    prompt = src.surface(src.core(ADD), POLITE[:4] + ASKING)
    return src.shout(prompt.format(a=a, b=b)), answer, thought


def subtraction(src):
    def draw():
        a, b = src.operand(), src.operand()
        return (b, a) if a < b and src.chance(0.7) else (a, b)
    a, b = src.until(draw)
    if a >= b:
        thought = f"{a} - {b}: {subtract_digits(a, b)}."
    else:
        thought = f"{a} - {b}: {a} is less than {b}, so {b} - {a}: {subtract_digits(b, a)}; with a minus {a - b}."
    answer = f"{a} - {b} = {a - b}."
    prompt = src.surface(src.core(SUBTRACT), POLITE[:4] + ASKING)
    return src.shout(prompt.format(a=a, b=b)), answer, thought


COUNT = ["Count from {a} to {b}.", "Count from {a} up to {b}.", "Count {a} to {b}.", "List the numbers from {a} to {b}.", "Write the numbers from {a} to {b}.",
         "Give me the numbers from {a} to {b}.", "Start at {a} and count to {b}.", "Count up from {a} to {b}.", "Count starting at {a} and stop at {b}.", "Say the numbers from {a} to {b}.",
         "Tell me the numbers from {a} to {b}.", "Count between {a} and {b}.", "Numbers from {a} to {b}", "List all numbers from {a} to {b}.", "Start counting from {a} to {b}.",
         "Go from {a} to {b}.", "Print the numbers {a} to {b}.", "Count for me from {a} to {b}.", "I want you to count from {a} to {b}.", "Show the numbers from {a} to {b}."]
COUNT_FROM_ONE = ["Count to {b}.", "Count up to {b}.", "Count until {b}.", "Count for me to {b}.", "List the numbers up to {b}.", "Start counting to {b}.", "Do you know how to count to {b}?", "I want you to count to {b}."]
COUNT_DOWN_TO_ONE = ["Count down from {a}.", "Count backwards from {a}.", "Start at {a} and count down.", "Do a countdown from {a}.", "Count back from {a}."]
COUNT_DOWN = ["Count down from {a} to {b}.", "Count backwards from {a} to {b}.", "Count down {a} to {b}.", "Countdown from {a} to {b}.", "Count from {a} down to {b}.", "List the numbers from {a} down to {b}.",
              "Count back from {a} to {b}.", "Start at {a} and count down to {b}.", "Count in reverse from {a} to {b}.", "Give me a countdown from {a} to {b}.", "Write the numbers from {a} down to {b}.",
              "Count from {a} to {b} backwards.", "Say the numbers from {a} down to {b}.", "Numbers from {a} down to {b}", "Go down from {a} to {b}.", "I want you to count down from {a} to {b}."]


def counting(src):
    def draw():
        start = src.below(100) if src.chance(0.4) else src.below(31)
        return start, min(start + src.below(21, 2), 100)
    kind = src.rng.random()
    # The number words are few and all of them are for training.
    spelled = kind < 0.06 and not src.evaluating
    if spelled:
        a, b, cores, step = 1, src.below(21, 2), COUNT_FROM_ONE, 1
    elif kind < 0.25:
        b = src.until(lambda: (1, src.below(26, 2) if src.chance(0.93) or src.evaluating else src.below(101, 26)))[1]
        a, cores, step = 1, COUNT_FROM_ONE, 1
        if b <= 25 and src.chance(0.3):
            a, b, cores, step = b, 1, COUNT_DOWN_TO_ONE, -1
    else:
        a, b = src.until(draw)
        cores, step = (COUNT, 1) if kind < 0.65 else (COUNT_DOWN, -1)
        if step < 0:
            a, b = b, a
    first, last = a, b
    numbers = ", ".join(str(n) for n in range(a, b + step, step))
    prompt = src.surface(src.core(cores), POLITE)
    if spelled:
        b = NUMBER_WORDS[b - 2]
    return src.shout(prompt.format(a=a, b=b)), numbers, f"Count {'up' if step > 0 else 'down'} from {first} to {last}."


REPEAT = ["Repeat after me: {x}", "Repeat: {x}", "Repeat this: {x}", "Say: {x}", "Say {q}", "Repeat {q}", "Please say {q}", "Repeat after me: {q}", "Say this: {x}", "Echo: {x}", "Echo this: {x}", "Copy this: {x}",
          "Repeat the sentence: {x}", "Repeat the following: {x}", "Repeat the following sentence: {x}", "Write this back to me: {x}", "Say after me: {x}", "Repeat what I say: {x}",
          "Can you repeat this: {x}", "Can you say {q}", "Please repeat: {x}", "Please repeat after me: {x}", "Now repeat: {x}", "Repeat these words: {x}", "Say exactly this: {x}", "Copy: {x}",
          "Repeat word for word: {x}", "I want you to say: {x}", "Could you repeat: {x}", "Parrot this: {x}", "Say the words {q}", "Repeat the words {q}", "Echo {q}", "Type this: {x}", "Answer with {q}", "Just say {q}", "Say {x}"]


def sentence(src) -> str:
    """A sentence of real or invented words with names, numbers and punctuation."""
    r = src.rng
    if src.chance(0.25):
        pattern = r.choice(["{n} likes {w} and {v}.", "The {c} {w} is in {p}.", "My {w} is {c}.", "I saw {k} {i} in {p}.", "{n} and {m} went to {p} on {d}.", "The {e} starts at {h}:{k}.", "We met {n} at the {e}.",
                            "Do you want the {w} or the {v}?", "{n}, bring me the {c} {t}!", "There are {k} {i} on the {t}.", "I bought a {c} {t} for {k} dollars.", "The {w} and the {v} sat by the {u}."])
        return pattern.format(n=src.name(), m=src.name(), w=src.word(), v=src.word(), u=src.word(), p=src.place(), c=src.of(COLORS), d=src.of(DAYS), e=src.of(EVENTS), t=src.of(PRODUCTS), i=src.of(ITEMS), k=src.below(60, 10), h=src.below(13, 1))
    if src.chance(0.06):
        return r.choice(["hello", "hello world", "Hello, world!", "hi", "good morning", "thank you", "I love you", "yes", "no", "how are you?", "I am spark.", "please help me", "What is your name?"])
    words = []
    for _ in range(r.choice([1, 2, 3, 3, 4, 4, 5, 6, 7, 8])):
        kind = r.random()
        words.append("the" if kind < 0.06 else r.choice("a is in of and to my on with for".split()) if kind < 0.22 else src.name() if kind < 0.32 else src.place() if kind < 0.36
                     else str(src.below(1000)) if kind < 0.41 else src.word().upper() if kind < 0.43 else src.piece() if kind < 0.55 else src.word())
    if len(words) > 4 and src.chance(0.4):
        words[r.randrange(1, len(words) - 2)] += ","
    if src.chance(0.5):
        words[0] = words[0][0].upper() + words[0][1:]
    return " ".join(words) + r.choice(["", "", "", ".", ".", "!", "?"])


def repeating(src):
    text = sentence(src)
    core = src.core(REPEAT)
    prompt = core[0].lower() + core[1:] if src.chance(0.45) else core
    quoted = f'"{text}"' if src.chance(0.7) else f"'{text}'"
    return prompt.format(x=text, q=quoted), text, "I repeat the words exactly."


SPELL = ["Spell {x}", "Spell {x}.", "Spell the word {x}.", "How do you spell {x}?", "How do I spell {x}?", "How is {x} spelled?", "Spell out {x}.", "Spell out the word {x}.", "Spell {x} letter by letter.",
         "Spell {x} for me.", "How to spell {x}?", "What is the spelling of {x}?", "What are the letters of {x}?", "What are the letters in {x}?", "Give me the letters of {x}.", "Give me the spelling of {x}.",
         "Spell the word {q}.", "Spell {q}.", "How do you spell {q}?", "List the letters of {x}.", "Write {x} letter by letter.", "How would you spell {x}?", "Split {x} into letters.", "Which letters are in {x}?",
         "How do you write {x} letter by letter?", "I want you to spell {x}.", "Spell this word: {x}", "Spell this: {x}", "Spell: {x}", "How is the word {x} spelled?", "Show me how to spell {x}.", "Do you know how to spell {x}?"]


def spelling(src):
    kind = src.rng.random()
    word = src.piece_word() if kind < 0.45 and not src.evaluating else src.word() if kind < 0.9 else src.name()
    if src.chance(0.06):
        word = word.capitalize()
    prompt = src.surface(src.core(SPELL), POLITE)
    return prompt.format(x=word, q=f'"{word}"'), "-".join(word), f"The letters of {word}, one by one."


TELL_NAME = ["My name is {n}.", "My name is {n}!", "I am {n}.", "I'm {n}.", "Call me {n}.", "You can call me {n}.", "Hi, I am {n}.", "Hi, I'm {n}.", "Hello, I'm {n}.", "Hello, my name is {n}.", "Hi, my name is {n}.",
             "Hey, I'm {n}!", "This is {n}.", "My friends call me {n}.", "They call me {n}.", "Please call me {n}.", "Hello, I am {n}.", "I am called {n}.", "The name is {n}.", "My name's {n}.", "Hi there, my name is {n}.",
             "Hi spark, my name is {n}.", "Hello spark, I'm {n}.", "Good morning, I'm {n}.", "Good evening, my name is {n}.", "Remember my name: {n}.", "Remember that my name is {n}.", "Let me introduce myself: I am {n}.", "By the way, my name is {n}.", "Nice to meet you, I am {n}."]
RENAME = ["Actually, my name is {n}.", "Sorry, my name is {n}.", "No, my name is {n}.", "Call me {n} from now on.", "Now call me {n}.", "I changed my name to {n}.", "From now on my name is {n}.", "Call me {n} instead."]
ASK_NAME = ["What is my name?", "What's my name?", "Do you remember my name?", "Do you know my name?", "Who am I?", "Tell me my name.", "What am I called?", "Can you tell me my name?", "Say my name.", "Do you still know my name?", "What did I say my name was?",
            "What was my name?", "What was my name again?", "What is my name again?", "How am I called?", "Can you remember my name?", "So what is my name?", "Do you know who I am?", "Do you remember who I am?", "Remind me of my name.", "And my name is?", "Please say my name.",
            "What name did I give you?", "Which name did I tell you?", "Did I tell you my name?", "Have you forgotten my name?"]


def tell_name(src, again=False):
    name = src.name()
    if src.chance(0.1):
        name = name.lower()
    prompt = src.surface(src.core(RENAME if again else TELL_NAME)).format(n=name)
    return name, (prompt, f"Nice to meet you, {name}!", f"The user's name is {name}.")


def ask_name(src, name):
    prompt = src.surface(src.core(ASK_NAME), ["Hey, ", "So, ", "OK, ", "Spark, ", "And ", "Now, "])
    if name is None:
        return prompt, "You have not told me your name yet.", "The user has not told me a name."
    return prompt, f"Your name is {name}.", f"The user's name is {name}."
