"""Words that say nothing alone, that mean the same, that mean the opposite, irregular forms, and
words for how much.

Groups are between bars. They are small on purpose: what is not here counts as another word, which
lowers the support of a claim and contradicts nothing.
"""

STOP = """
    a an the this that these those it its he him his she her hers they them their theirs we us
    our i me my you your who whom whose which what when where why how there here and or but if
    then than as at by for from in into of off on onto out over to up with about after before
    between through during under above is are was were be been being am do does did done has
    have had having will would shall should may might can could must not no nor so such very
    also just only own same too both each few more most other some any all much many one ones s
    t d ll m re ve because while until against again once per via upon within according says
    said say states stated source text passage article author however thus therefore called
    known named became become becomes used
"""
"""Of grammar, and of speaking about sources."""
SAME = """
    big major | worker labourer laborer | competitor rival | length long | depth deep | height
    high | width wide | strength strong | weight weigh | infect catch contract | fever
    temperature | wed marry | voter electorate | begin start commence launch originate | end
    finish conclude cease stop terminate | big large great huge | small little tiny minor | make
    create produce build construct manufacture form | get obtain receive acquire gain | show
    demonstrate reveal indicate display exhibit suggest | help assist aid support | use utilize
    employ apply | need require demand necessitate | buy purchase acquire | fight battle combat
    conflict war | kill murder slay | die perish death | live reside dwell inhabit | leave
    depart exit | rise increase grow climb jump surge expand | fall decrease decline drop
    diminish shrink reduce lower | important significant crucial key major vital essential |
    quick fast rapid swift | country nation state | city town | people person inhabitant
    resident population individual human | child kid | car automobile vehicle | illness disease
    sickness disorder | doctor physician | teacher instructor educator | student pupil | job
    work occupation employment profession | company firm business corporation enterprise | money
    fund cash | cost price expense | law statute legislation act | rule govern reign control |
    king monarch ruler | movie film picture | song tune track | book volume | author writer |
    scientist researcher scholar | study research investigation analysis | find discover detect
    identify locate | found establish create set | name call title dub term | contain include
    comprise hold | part portion piece section component | kind type sort form | near close |
    far distant | old ancient elderly | new recent modern novel | rich wealthy affluent | poor
    impoverished | strong powerful mighty | weak feeble | happen occur | think believe consider
    regard | say tell state claim assert declare | ask request question | answer reply respond
    response | choose select pick elect | win triumph victory | lose defeat loss | beat defeat
    overcome | attack assault strike raid | defend protect guard | send dispatch | carry
    transport convey bear | move shift relocate migrate | change alter modify transform | keep
    retain maintain preserve | allow permit let enable | forbid prohibit ban | stop prevent halt
    | give grant provide supply offer | take seize capture | try attempt | destroy demolish ruin
    wreck | damage harm injure | join unite | divide split separate | common frequent usual
    widespread | rare uncommon scarce | main principal chief primary leading | first initial
    original | last final | late subsequent | early prior previous earlier former | often
    frequently | usually typically generally normally | mostly mainly primarily largely | nearly
    almost approximately roughly about around | quickly rapidly | event incident occurrence |
    area region zone district territory | place location site spot | border boundary frontier |
    river stream | ocean sea | forest wood | mountain hill | home house residence | road street
    | ship vessel boat | soldier troop | army military force | church cathedral | priest clergy
    | holy sacred | religion faith | belief doctrine | idea concept notion | method technique
    approach procedure | result outcome consequence effect | cause lead trigger | reason cause |
    goal aim objective purpose | problem issue difficulty | attempt effort | view opinion
    perspective | amount quantity | size magnitude | number count | percent percentage | half
    fifty | average mean typical | total entire whole | year annual | day daily | month monthly
    | age era period epoch | time period | write compose pen author | paint depict | describe
    portray | speak talk | language tongue | education schooling | university college | school
    academy | award prize | leader head chief | official officer | oppose resist object | agree
    accept | refuse reject decline | expand extend enlarge | develop evolve | spread disperse |
    arrive come reach | remain stay | appear emerge | vanish disappear | publish release issue |
    open inaugurate | close shut | complete finish | replace substitute supersede | follow
    succeed | connect link associate relate | different distinct various diverse | similar alike
    comparable | equal same identical | correct right accurate | wrong incorrect | famous
    renowned well-known celebrated | beautiful attractive | dangerous hazardous risky | safe
    secure | easy simple | hard difficult | inexpensive cheap | expensive costly | enough
    sufficient | whole entire | mice mouse murine | human patient | tumor tumour cancer neoplasm
    | therapy treatment | drug medication | mortality death | increase elevate | activate
    activation | inhibit suppress block
"""
"""Each group may stand for each other."""
OPPOSITE = """
    increase decrease | increase reduce | rise fall | raise lower | grow shrink | higher lower |
    high low | more less | more fewer | most least | most few | few many | larger smaller |
    large small | greater smaller | greater lesser | big small | long short | longer shorter |
    before after | earlier later | early late | first last | pay free | charge free | begin end
    | start end | start stop | open close | north south | east west | northern southern |
    eastern western | northeast southwest | northwest southeast | win lose | won lost | victory
    defeat | accept reject | accept refuse | support oppose | agree disagree | allow forbid |
    allow prohibit | allow prevent | permit prohibit | include exclude | all none | always never
    | often rarely | everyone nobody | major minor | majority minority | new old | inside
    outside | above below | success failure | succeed fail | positive negative | male female |
    men women | man woman | present absent | possible impossible | promote inhibit | promote
    prevent | activate inhibit | activate suppress | enhance impair | improve worsen | better
    worse | best worst | strong weak | stronger weaker | rich poor | hot cold | warm cool | fast
    slow | faster slower | near far | public private | legal illegal | maximum minimum | upper
    lower | left right | import export | arrive depart | enter leave | buy sell | gain lose |
    expand contract | connect disconnect | true false | same different | similar different |
    common rare | safe dangerous | easy difficult | ancient modern | internal external | direct
    indirect | domestic foreign | formal informal | active inactive | ally enemy | peace war |
    love hate | up down | ascend descend | advance retreat | attack defend | create destroy |
    build destroy | encourage discourage | approve disapprove | efficient inefficient | friend
    enemy | guilty innocent | former latter | presence absence | deficiency excess | sensitive
    resistant | benign malignant | acute chronic | increase decline | approve reject | confirm
    deny | lead follow | majority few | partially fully | minimal maximal | heavy light | older
    younger
"""
"""Pairs."""
IRREGULAR = """
    began begin | begun begin | rose rise | risen rise | fell fall | fallen fall | grew grow |
    grown grow | wrote write | written write | built build | made make | took take | taken take |
    gave give | given give | went go | gone go | came come | became become | won win | lost lose |
    fought fight | held hold | led lead | left leave | kept keep | said say | told tell |
    thought think | brought bring | bought buy | sold sell | sent send | spent spend | met meet |
    found find | knew know | known know | saw see | seen see | stood stand | ran run | drew draw |
    drawn draw | drove drive | driven drive | chose choose | chosen choose | spoke speak |
    spoken speak | broke break | broken break | forbade forbid | forbidden forbid | shot shoot |
    struck strike | hid hide | hidden hide | flew fly | flown fly | sang sing | sung sing |
    sank sink | swam swim | wore wear | worn wear | bore bear | born bear | caught catch |
    taught teach | sought seek | felt feel | dealt deal | meant mean | slept sleep | lay lie |
    laid lay | paid pay | children child | men man | women woman | people person | feet foot |
    teeth tooth | mice mouse | lives life | wives wife | newer new | newest new | younger young |
    youngest young | longer long | longest long | shorter short | shortest short |
    stronger strong | weaker weak | richer rich | poorer poor | faster fast | slower slow |
    greater great | greatest great | earlier early | later late | higher high | highest high |
    larger large | largest large | smaller small | smallest small | older old | oldest old |
    died die | dying die | dead die
"""
"""A form, then its base."""
QUANTIFIERS = """
    every all each always everyone everything everywhere both entirely | part some many several
    often sometimes half occasionally partly | most mostly usually generally | few rarely seldom |
    none no never neither nobody | may might could | must shall
"""
"""Words for how many, how often or how surely; the first names the group."""
APART = """
    every part | every most | every few | every none | part none | most none | most few | few part |
    few none | part most | may must
"""
"""Groups of them that do not say the same."""
BOUNDS = """
    until since|before since|after until|from until|after before|over under|above below|by since
"""
"""Words before a number or a date that do not say the same."""
TITLES = """
    president king queen prince princess emperor pope lord lady sir duke earl count baron general
    colonel captain admiral major professor doctor dr mr mrs ms st saint minister prime secretary
    senator governor mayor judge chief director the
"""
"""Before a name, and no part of it."""
DEGREES = """
    big larg great major import signific good well bad high low small littl minor main chief key
    central princip strong seriou sever certain variou differ numer consider substanti sizeabl
    extens notabl famou popular known common gener typic usual particular special specif apparent
    clear evid like possibl probabl abl avail free full whole entir total complet previou prior
    former recent current present modern contemporari earli late new old primari origin initi
    final last addit further other anoth such similar same enorm huge vast immens rapid quick fast
    slow close near far distinct multipl singl sole onli
"""
"""Stems of adjectives that stand for each other too often to say anything."""
