"""The values that prompts are filled with, and the split that holds some out.

Every value, prompt core and tool name is either for training or for the
evaluation, decided by a hash of its text, so that no list of splits is kept.
"""

import random
import zlib

NAMES = """Maria Anna John Peter Paul Lucy Emma Olga Ivan Igor Chen Wei Li Yuki Kenji Aisha Omar Fatima Ali Noor
Carlos Diego Sofia Lucia Mateo Elena Nina Boris Dmitri Katya Hans Greta Klaus Ingrid Lars Sven Astrid Freya Bjorn Erik
Marta Pavel Zuzana Tomas Jana Petra Milan Goran Mila Luka Ana Rita Jose Pedro Joao Bruno Clara Laura Marco Giulia
Paolo Chiara Luca Pierre Marie Louis Chloe Camille Hugo Jean Alice Bob Carol Dave Eve Frank Grace Heidi Jack Kate Leo
Mia Noah Oscar Pam Quinn Rosa Sam Tina Uma Victor Wendy Xena Yara Zoe Adam Ben Cleo Dora Ella Finn Gina Harry Iris
Jonas Kim Liam Max Nora Otto Priya Raj Sara Theo Ursula Vera Will Arthur Bella Cyrus Diana Edgar Flora George Hannah
Isaac Julia Kevin Linda Mike Nancy Oliver Philip Rachel Steve Tessa Vivian Walter Yusuf Zara Amir Bianca Cedric
Delia Emil Farah Gustav Helga Imran Jasmine Kiran Leila Magnus Nadia Olaf Pilar Ramon Selma Tariq Viktor Yana
Abdul Brigitte Chandra Dominic Esther Fabian Gloria Hector Ibrahim Josefina Kofi Lydia Marcus Naomi Orlando Patricia
Quentin Roberto Stella Thomas Valentina Wanda Xavier Yvonne Zelda Amelia Benedict Charlotte Daniel Elizabeth Felix
Gabriel Harriet Isabella James Kenneth Lawrence Margaret Nicholas Ophelia Penelope Rebecca Sebastian Timothy William
Abigail Bernard Cornelia Douglas Eleanor Ferdinand Gertrude Humphrey Imogen Jeremy Kathleen Leonard Matilda
Nathaniel Octavia Prudence Reginald Samantha Tobias Violet Wilhelm Zachary Ada Alan Ken Dennis Linus Guido Bjarne""".split()

PLACES = """Paris London Berlin Madrid Rome Vienna Prague Warsaw Budapest Athens Lisbon Dublin Oslo Stockholm Helsinki
Copenhagen Amsterdam Brussels Zurich Geneva Milan Venice Naples Turin Florence Munich Hamburg Cologne Frankfurt Lyon
Nice Bordeaux Marseille Toulouse Seville Valencia Porto Krakow Gdansk Riga Vilnius Tallinn Moscow Kyiv Odessa Minsk
Istanbul Ankara Cairo Tunis Rabat Lagos Accra Nairobi Kampala Dakar Durban Pretoria Tokyo Osaka Kyoto Sapporo Nagoya
Seoul Busan Beijing Shanghai Shenzhen Taipei Hanoi Bangkok Jakarta Manila Singapore Mumbai Delhi Chennai Kolkata
Lahore Karachi Dhaka Kabul Tehran Baghdad Dubai Doha Muscat Riyadh Amman Beirut Boston Chicago Denver Dallas Houston
Austin Seattle Portland Phoenix Detroit Atlanta Miami Orlando Toronto Montreal Vancouver Ottawa Calgary Havana Lima
Bogota Quito Santiago Caracas Brasilia Montevideo Sydney Melbourne Perth Brisbane Auckland Wellington Reykjavik
Glasgow Edinburgh Cardiff Bristol Leeds Oxford Cambridge York Bath Basel Bern Graz Linz Split Zagreb Sarajevo Sofia
Bucharest Ljubljana Bratislava Antwerp Utrecht Rotterdam Bergen Malmo Tampere Turku Aarhus Odense""".split()
PLACES += ["New York", "Los Angeles", "San Francisco", "San Diego", "New Orleans", "Las Vegas", "Hong Kong", "Cape Town", "Buenos Aires", "Mexico City", "New Delhi",
           "Tel Aviv", "Rio de Janeiro", "Salt Lake City", "The Hague", "Abu Dhabi", "Kuala Lumpur", "Panama City", "Santa Fe", "San Jose"]

WORDS = """river mountain apple orange lantern candle window garden kitchen doctor teacher engine rocket planet silver
golden copper marble forest desert island bridge castle tunnel valley meadow winter summer autumn spring thunder
lightning rainbow shadow mirror pillow blanket carpet curtain basket bottle bucket hammer ladder needle pencil paper
pocket button jacket sweater trouser glove scarf ribbon feather pigeon sparrow falcon rabbit badger beaver turtle
lizard spider beetle butterfly elephant giraffe monkey tiger leopard panther donkey camel horse goat sheep chicken
turkey duck swan penguin dolphin whale shark salmon lobster oyster pepper ginger garlic onion carrot potato tomato
cabbage spinach lettuce cucumber pumpkin banana cherry lemon melon peach grape mango coconut walnut almond peanut
butter cheese yogurt cream sugar honey coffee bread biscuit cookie muffin pancake waffle noodle soup salad sandwich
guitar violin trumpet piano drummer singer dancer painter writer farmer sailor soldier captain pilot driver baker
butcher tailor carpenter plumber lawyer judge police village city market school church temple museum library theater
hospital station airport harbor factory office palace cottage tower fountain statue monument picture story letter
number question answer problem secret journey travel voyage holiday weekend morning evening midnight yesterday
tomorrow century moment minute quickly slowly gently loudly quietly softly bravely kindly happy sad angry proud brave
clever gentle humble honest lonely hungry thirsty sleepy tired bright dark heavy light narrow wide deep shallow
ancient modern simple strange curious famous hidden broken frozen wooden purple yellow green crimson violet orange
crystal diamond emerald puzzle riddle whisper murmur laughter gravity energy magnet oxygen carbon hydrogen atom
molecule telescope microscope computer keyboard printer battery circuit signal antenna satellite compass calendar
umbrella bicycle tractor trailer wagon balloon parachute glacier volcano earthquake hurricane avalanche waterfall
jungle prairie canyon lagoon peninsula horizon sunrise sunset twilight starlight moonbeam firefly dragon wizard
goblin phantom pirate treasure kingdom emperor princess knight armor shield arrow sword dagger cannon victory
defeat courage wisdom justice freedom harmony rhythm melody chorus ballad sonnet poem novel chapter sentence
paragraph grammar syllable alphabet vowel consonant fraction decimal triangle circle square pentagon hexagon cylinder
sphere pyramid equation theorem formula variable function pointer compiler kernel thread buffer cache socket packet
router server client browser network cloud database table column index query cursor backup archive folder document
zebra quartz jigsaw oxen vex waltz sphinx fjord quiz jumbo knack whiskey zephyr yacht xylophone vortex unicorn
saxophone rhubarb quilt pretzel ostrich nutmeg mustard lavender kiosk jasmine igloo hazelnut gazelle flamingo
eucalyptus dandelion chrysanthemum buttercup armadillo tambourine harpsichord accordion mandolin clarinet bassoon
cat dog sun moon star tree leaf rose fish bird cow pig hen fox bear wolf deer frog ant bee book lamp desk chair bed
door wall roof floor road path hill lake sea ship boat train plane car bus bike ball game song dance play work
rest sleep dream wake walk run jump swim fly sing read write draw paint cook eat drink buy sell give take find lose
keep throw catch push pull open close begin end start stop wait watch listen speak think know learn teach love
strength thought through enough although knowledge science mechanism rhinoceros mississippi committee necessary
accommodate embarrass rhythmical beautiful restaurant government environment language mathematics philosophy
architecture temperature literature adventure furniture agriculture signature creature mixture pasture texture
nation station vacation location education information celebration imagination conversation destination generation
happiness darkness kindness sadness weakness illness business fitness wilderness friendship leadership membership
careful wonderful colorful powerful peaceful grateful useful helpful hopeful faithful thoughtful cheerful graceful
endless homeless fearless careless useless priceless restless world rust cargo crate""".split()

COLORS = "red blue green yellow black white purple orange pink brown gray silver golden beige crimson teal violet".split()
NUMBER_WORDS = "two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen sixteen seventeen eighteen nineteen twenty".split()
DAYS = "Monday Tuesday Wednesday Thursday Friday Saturday Sunday today tomorrow".split()
JOBS = """doctor teacher baker nurse farmer pilot lawyer painter plumber writer cook driver engineer chemist tailor judge
carpenter dentist singer dancer gardener waiter banker sailor librarian mechanic barber architect journalist
photographer programmer biologist astronomer butcher fisherman""".split()
ANIMALS = "dog cat parrot horse rabbit hamster turtle goat donkey snake duck pony lizard canary ferret llama".split()
PRODUCTS = """lamp chair table book phone laptop jacket bicycle camera guitar mirror carpet kettle toaster backpack watch
umbrella sofa pillow blanket bottle keyboard printer monitor helmet tent drone piano violin hammer ladder""".split()
ITEMS = """apples oranges eggs chairs books pens tickets bottles pizzas cookies shirts lamps pencils bananas cups plates
lemons candles flowers batteries towels notebooks stamps pillows onions carrots melons spoons""".split()
EVENTS = """meeting party concert lecture wedding dinner workshop picnic festival exam interview race match parade
conference ceremony seminar exhibition rehearsal auction""".split()
LANGUAGES = "French German Spanish Italian Polish Dutch Greek Turkish Arabic Hindi Japanese Korean Chinese Swedish".split()

ONSETS = "b bl br c ch cl cr d dr f fl fr g gl gr h j k kn l m n p ph pl pr qu r s sc sh sk sl sm sn sp st str sw t th tr tw v w wh y z".split() + [""] * 6
VOWELS = "a e i o u a e i o u ai au ea ee ei ie oa oo ou y".split()
CODAS = "b ck ct d f ft g k l ld ll lm m mp n nd ng nk nt p r rd rk rm rn rt s sh sk ss st t th x z".split() + [""] * 20

HELD_OUT_ONE_IN = 10
# Chosen so that the plainest prompts, such as "Hello!", are for training.
CORE_SALT = "94177:"


def held_out(text: str) -> bool:
    return zlib.crc32(text.lower().encode()) % HELD_OUT_ONE_IN == 0


def is_novel(core: str) -> bool:
    return held_out(CORE_SALT + core)


class Source:
    """A seeded stream of values from one side of the split."""

    def __init__(self, seed: int, evaluating: bool = False):
        self.rng = random.Random(seed)
        self.evaluating = evaluating
        self.lists = {}
        self.pieces = WORDS

    def until(self, draw):
        """Draws until the text of the drawn value is on this stream's side."""
        while True:
            value = draw()
            if held_out(str(value)) == self.evaluating:
                return value

    def of(self, values: list) -> str:
        """One of a list's values on this side of the split."""
        mine = self.lists.get(id(values))
        if mine is None:
            mine = [v for v in values if held_out(v) == self.evaluating] or values
            self.lists[id(values)] = mine
        return self.rng.choice(mine)

    def pseudo_word(self) -> str:
        r = self.rng
        syllables = r.choice([1, 2, 2, 2, 3])
        return "".join(r.choice(ONSETS) + r.choice(VOWELS) + r.choice(CODAS) for _ in range(syllables))

    def odd_word(self) -> str:
        """An invented word."""
        return self.until(self.pseudo_word)

    def piece(self) -> str:
        """A word or a part of one that is a token."""
        return self.until(lambda: self.rng.choice(self.pieces))

    def piece_word(self) -> str:
        """A run of vocabulary pieces, so that the letters of each get learned."""
        count = self.rng.choice([1, 2, 2, 3])
        return self.until(lambda: "".join(self.rng.choices(self.pieces, k=count)))

    def word(self) -> str:
        return self.of(WORDS) if self.rng.random() < 0.7 else self.odd_word()

    def name(self) -> str:
        return self.of(NAMES) if self.rng.random() < 0.7 else self.odd_word().capitalize()

    def place(self) -> str:
        return self.of(PLACES) if self.rng.random() < 0.7 else self.odd_word().capitalize()

    def below(self, limit: int, start: int = 0) -> int:
        return self.rng.randrange(start, limit)

    def operand(self) -> int:
        """A number of a sum: up to 99, the small ones more often, as people ask for them; sometimes 100."""
        return 100 if self.chance(0.02) else self.below(10 if self.chance(0.25) else 100)

    def chance(self, p: float) -> bool:
        return self.rng.random() < p

    def core(self, cores: list) -> str:
        """A prompt core: training sees nine in ten of them, the evaluation all.

        A held-out core is marked by `novel_core`, which the evaluation reports.
        """
        while True:
            core = self.rng.choice(cores)
            self.novel_core = is_novel(core)
            if self.evaluating or not self.novel_core:
                return core

    def surface(self, core: str, before=(), after=()) -> str:
        """Varies how a core is typed: politeness, case, final punctuation."""
        r = self.rng
        if before and r.random() < 0.25:
            core = r.choice(before) + core[0].lower() + core[1:]
        if after and r.random() < 0.15:
            mark = core[-1] if core[-1] in "?.!" else ""
            core = core.rstrip("?.!") + r.choice(after) + mark
        if r.random() < 0.4:
            core = core.lower() if r.random() < 0.7 else core[0].lower() + core[1:]
        if r.random() < 0.35:
            core = core.rstrip("?.!")
        return core

    def shout(self, prompt: str) -> str:
        return prompt.upper() if self.chance(0.05) else prompt
